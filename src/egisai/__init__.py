"""Attribution of LLM calls to agents, users, sessions and workflows, on OpenTelemetry."""
