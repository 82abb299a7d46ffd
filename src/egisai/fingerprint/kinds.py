"""Says of each sentence of a system text whether it tells the agent what it is and does, or was inserted as data.

A template speaks to the agent: "You are …", "Never guess", "Answer in Markdown". What is rendered into it speaks about
the world: "The invoice was paid in March", "Maria likes jazz", "User: What is a tariff?". Where neither can be told, a
sentence is a fragment, which decides nothing by itself.

Folded words and the marks between them decide. A line break ends a sentence unless the next line goes on with a small
letter: how a prompt is wrapped must not change its kind.
"""

# ruff: noqa: RUF001  (other scripts are what this is about)
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final

from egisai.fingerprint.cues import MASK
from egisai.fingerprint.given_names import word_set
from egisai.fingerprint.masks import DATA_WORDS


class Kind(IntEnum):
    """What a sentence is to the agent."""

    FRAGMENT = 0
    """A heading, a cell, a bullet of a few words: as what stands around it."""
    DATA = 1
    ORDER = 2
    """Says how the agent works."""
    JOB = 3
    """Says what the agent is for: two prompts that differ in one of these are two agents."""
    LABEL = 4
    """Announces data: "Context:", "Examples:", "What we know of the user:"."""
    CERTAIN = 5
    """Data beyond doubt: of the user, or a speaker's turn in a dialogue."""


_END: Final = re.compile("[.!?;:…][\"')\\]*_`]*\\s+|[。！？；।؟]\\s*")
_WRAPPED: Final = re.compile(r"(?<![.!?:;\n])\n(?=[a-z])")
_TAG: Final = re.compile(r"(</?[A-Za-z][^<>\n]{0,60}>)")
_BULLETS: Final = " \t-*•+>#|=–—_`"
_ABBREVIATED: Final = ("e.g.", "i.e.", " vs.", " Dr.", " Mr.", "Mrs.", " Ms.", " No.", "etc.")


def lines(text: str) -> Iterator[list[str]]:
    """The lines of a masked text, with those that were wrapped joined, each as its sentences; tags are lines."""
    text = _WRAPPED.sub(" ", text)
    if "<" in text:
        text = _TAG.sub(r"\n\1\n", text)
    for line in text.split("\n"):
        line = line.lstrip(_BULLETS)
        at = 0
        pieces: list[str] = []
        for end in _END.finditer(line):
            if line[max(0, end.start() - 3) : end.start() + 1] not in _ABBREVIATED:
                pieces.append(line[at : end.end()])
                at = end.end()
        if at < len(line):
            pieces.append(line[at:])
        if pieces:
            yield pieces


# --- what speaks to the agent --------------------------------------------------------------------------------------

_ADDRESSED: Final = word_set(
    """
    always never ensure avoid assistant assistants agent chatbot respond responds response responses reply replies
    answer answers answering output outputs json markdown instruction instructions guideline guidelines task tasks tone
    concise yourself please
    du dein deine deinen deinem deiner dich dir bitte immer niemals sollst musst antworte antworten vermeide
    tu ton ta tes toi toujours jamais veuillez dois devez réponds répondez réponse évite évitez
    usted ustedes tus eres debes siempre nunca responde responda respuesta evita evite
    você vocês responda resposta nunca sempre deves
    sempre mai devi rispondi rispondere risposta lei
    jij jouw altijd nooit antwoord
    ты вы твой твоя ваш ваша всегда никогда отвечай отвечайте должен должна
    ty twój twoja zawsze nigdy musisz odpowiadaj
    """
)
"""A sentence with one of these is an order to a language model, not a remark about the world."""

_PHRASES: Final = {
    "you": r" you (?:must|should|shall|will|may not|cannot|can t|need|have to|only|do not|don t|are|re|receive|get|know"
    r"|speak) ",
    "not": r" (?:do|must|should|may) not ",
    "don": r" don t ",
    "if": r" if (?:the |a )?(?:user|customer|client|caller|answer|question|request) ",
    "when": r" when (?:the |a )?(?:user|customer|client|caller) ",
    "s": r" the user s (?:question|request|input|message|query|language) ",
    "ask": r" ask (?:the|for|if|when|one|clarifying) ",
    **dict.fromkeys(
        ("sie", "ihr", "ihre", "vous", "votre", "su", "sus", "seu", "sua", "suo", "uw", "u"),
        r" (?:benutzer|nutzer|kunden?|frage|utilisateur|usuario|cliente|usuário|utente|gebruiker)",
    ),
}
_SCRIPTS: Final = re.compile(
    "[你您]|请|請|不要|必须|必須|应该|始终|回答|ください|なさい|してはいけ|しないで|こと[。]?$"
    "|당신|하세요|십시오|마세요|하지 마|답변|يجب|أجب|لا ت|आप|दें|करें|कीजिए"
)
"""The same in scripts where orders are known by endings and particles."""

_ORDERS: Final = word_set(
    """
    accept act adapt add address adhere adjust advise aim align analyse analyze append apply ask assess assign assist
    assume avoid base be begin break capture categorise categorize check cite clarify classify combine compare compile
    compose conclude confirm consider convert correct count create criticise critique decide deduce define delegate
    deliver describe detect determine discuss don't draft edit elaborate eliminate emphasise emphasize encourage
    enumerate escalate estimate evaluate examine exclude explain express extract find flag focus follow format
    generate give greet group guide handle help highlight identify ignore imagine improve include incorporate indicate
    infer inspect interpret introduce judge justify keep label let limit list listen maintain make match mention
    minimise minimize name note offer organise organize outline paraphrase plan point praise prefer prepare present
    prioritise prioritize produce promote proofread propose provide quote rank rate read reason recommend redact refer
    refine reflect refuse reject remain remember rephrase report restate return review revise rewrite route score sort
    speak specify stay state stick structure suggest summarise summarize support tell think translate treat triage
    understand use validate verify warn work wrap write
    """
)
"""English sentences that begin with one of these tell a model what to do; "click" and "install" tell people."""

TASKS: Final = word_set(
    """
    analyse analyze answer check classify compare compose convert count create describe draft evaluate explain extract
    find generate grade guide help identify label list match moderate pick plan rate review rewrite route score select
    sort summarise summarize tag transform translate turn write
    """
)
"""Orders that can be all that a prompt says of its job."""

_DUTIES: Final = (
    r"(?:handle|help|assist|support|manage|process|resolve|advise|coach|teach|tutor|review|translate|summari[sz]e|write"
    r"|draft|plan|route|triage|classify|extract|analy[sz]e|generate|create|moderate|speciali[sz]e|focus|look after"
    r"|take care|work on|deal with|answer|guide|design|build|evaluate|deliver|sell|recommend|schedule|investigate"
    r"|explain|cover|own|serve|act|work|transform|convert)"
)
_SELF: Final = (
    r" (?:the|this|our) (?:assistant|agent|bot|chatbot|system|model|ai|worker|prompt)"
    rf" (?:is|was|will|must|should|{_DUTIES}s) "
)
_JOBS: Final = {
    "you": r" you (?:(?:are|re|will be|ll be)(?: now| also| only)? "
    r"(?!talking|speaking|chatting|helping|serving|running|powered|given|provided|allowed|free |not |able|expected"
    r"|asked|required|currently|in |on |to |about|going|reading|looking|unsure|sure|done|finished|ready|interacting"
    r"|welcome)"
    rf"|(?:only |also |will |must |should |can |may |primarily |mainly )*{_DUTIES}s? )"
    r"|^ you (?!can|could|may|might|should|will|would|need|have|must|do |don|are|re |see |get |want|know|receive|cannot"
    r"|were|did|had|\w*[^e ]ed |ll |ve |d |never|always|only|also|only|yourself)[a-z]+ ",
    "your": r" your (?:\w+ ){0,2}(?:role|task|tasks|job|goal|goals|purpose|mission|responsibilit(?:y|ies)|objective"
    r"|duty|duties|assignment|specialty|speciality|function|focus|domain|scope|area) ",
    "as": r" (?:act|behave|serve|work|function|respond) as ",
    **dict.fromkeys(("assistant", "agent", "bot", "chatbot", "system", "model", "ai", "worker", "prompt"), _SELF),
    **dict.fromkeys(
        ("she", "he", "it", "they"),
        r"^ (?:\w+ )?(?:she|he|it|they) (?:only |also )?(?:handle|help|assist|support|answer|advise"
        r"|manage|guide|teach|review|translate)e?s? ",
    ),
    "want": r" (?:i|we) want you to ",
    "need": r" (?:i|we) need you to ",
    "responsible": r" responsible for ",
    "charge": r" in charge of ",
    **dict.fromkeys(("specializes", "specialises", "specialized", "specialised"), r" speciali[sz]e[sd] in "),
    "du": r" du bist ",
    "sie": r" sie sind ",
    "ihr": r" ihr seid ",
    "aufgabe": r" (?:deine|ihre) aufgabe ",
    "tu": r" tu (?:es|tarea|función|rol) ",
    "vous": r" vous êtes ",
    **dict.fromkeys(("rôle", "tâche", "mission"), r" (?:ton|votre|ta) (?:rôle|tâche|mission) "),
    "eres": r" eres ",
    "usted": r" usted es ",
    "su": r" su (?:tarea|función|rol) ",
    "sei": r" sei (?:un|la |il |lo |l )",
    "lei": r" lei è ",
    "compito": r" tuo compito ",
    "você": r" você é ",
    **dict.fromkeys(("tarefa", "papel", "função"), r" (?:sua|seu) (?:tarefa|papel|função) "),
    "je": r" je bent ",
    "u": r" u bent ",
    "taak": r" (?:jouw|uw) taak ",
    "jesteś": r" jesteś ",
    "zadaniem": r" twoim zadaniem ",
    "ты": r" ты ",
    "вы": r" вы ",
    "задача": r" (?:твоя|ваша) задача ",
}
"""Wordings that say what the agent is for, by a word that each of them has."""

_JOB_SCRIPTS: Final = re.compile("你是|您是|你的任务|你负责|您的任务|あなたは|당신은|أنت |आप ")
_JOB_WORDS: Final = frozenset(_JOBS)
_PHRASE_WORDS: Final = frozenset(_PHRASES)
_PATTERNS: Final = {name: re.compile(pattern) for name, pattern in _JOBS.items()}
_PHRASE_PATTERNS: Final = {name: re.compile(pattern) for name, pattern in _PHRASES.items()}

# --- what speaks about the world -----------------------------------------------------------------------------------

_FUNCTION_WORDS: Final = word_set(
    """
    the a an of is are was were has have had it its to in on for and with from by at they he she this that can will be
    der die das ein eine und ist sind war hat im in den dem von zu mit auf für nicht es wird am
    le la les un une des et est sont dans de du en pour avec il elle au sur
    el los las una y es son en del por con se al
    o os as um uma e é são no na do da em para com
    il lo gli i di che e è sono nel della per con
    het een en van is zijn op met voor
    и в на не что с по из был была было это
    w z na i jest są nie do się
    """
)
"""A sentence with one of these is in a language whose orders we know, so that what is none is a statement."""

_WHO: Final = "user customer client patient caller student guest member visitor employee buyer subscriber"
_OF_A_PERSON: Final = word_set(
    """
    is has was lives likes loves prefers works enjoys owns uses bought mentioned recently said told wanted wants
    dislikes speaks studies joined signed plays drives travels hates needs asked had does visited ordered contacted
    called reported upgraded cancelled canceled reads thinks moved
    """
)
"""What is said of people; a bullet of a memory begins with it."""

_ABOUT: Final = frozenset((*_WHO.split(), MASK, "you", "signed", "logged"))
_ABOUT_THE_USER: Final = re.compile(
    rf" (?:the |this |our |a |your )?(?:{_WHO.replace(' ', '|')}|{MASK})(?: s \w+)? (?:\w+ly |never |always )?"
    rf"(?:{'|'.join(sorted(_OF_A_PERSON))}|since) "
    r"| (?:currently |right now |now )?you are (?:currently |now )?(?:running on|powered by|based on"
    r"|(?:talking|speaking|chatting) (?:to|with)) "
    rf"| the (?:{_WHO.replace(' ', '|')}) you are (?:helping|talking|serving)"
    r"| (?:signed|logged) in as "
)
_TITLE: Final = 6  # words of "Your task now:"
_SPEAKERS: Final = word_set(
    """
    user assistant human ai bot customer client agent caller patient student q a question query frage nutzer kunde
    utilisateur pregunta usuario pergunta domanda utente 用户 助手 客户 问 答 ユーザー 質問
    """
)
"""Whose turn it is, in a dialogue: the label alone, before a colon."""

_LABEL: Final = re.compile(
    r" (?:context|documents?|passages?|excerpts?|snippets?|search results?|sources?|transcript|history|conversations?"
    r"|memor(?:y|ies)|remember|profile|examples?|articles?|records?|knowledge|facts|background|notes|retrieved"
    r"|references?|about the (?:user|customer)|known|data|catalogue|catalog|details|preferences|summary|so far"
    r"|previously|earlier|tools?|flags?|experiments?|enabled|disabled|settings|environment|kontext|dokumente?|auszüge"
    r"|beispiele?|profil|verlauf|werkzeuge|contexte|exemples?|outils|contexto|ejemplos?|documentos?|perfil"
    r"|herramientas|exemplos?|ferramentas|contesto|esempi|документы|контекст|примеры) "
    r"|上下文|资料|示例|参考|工具|コンテキスト|例|資料"
)
_FIELDS: Final = word_set(
    """
    name e mail email plan city country region since interests locale language timezone zone tz units currency model
    date time today user customer client account tier current phone age gender birthday company department level
    subscription status language sprache zeitzone name kunde langue fuseau idioma zona horaria nombre today now day
    """
)
"""Keys of the fields of a profile or a setting."""

_JOB_KEYS: Final = word_set("goal goals instruction instructions job mission objective objectives purpose task tasks")

_CELLS: Final = re.compile(r"\||=>|->|→|\w=\w|\$\w|\w\(")
"""What tables, examples, code and settings have, and sentences do not."""


def kind_of(words: Sequence[str], piece: str) -> Kind:
    """What a piece is, given its folded words and itself for the mark at its end."""
    told = frozenset(words)
    said = f" {' '.join(words)} "
    ascii_only = piece.isascii()
    end = piece.rstrip("\"')]*_` ")[-1:]
    if "you" in told and _ABOUT_THE_USER.match(said):
        return Kind.CERTAIN
    if end != "?" and (
        _says(said, told & _JOB_WORDS, _PATTERNS) or (not ascii_only and _JOB_SCRIPTS.search(said) is not None)
    ):
        return Kind.JOB
    n = len(words)
    if names_job(words, piece):
        return Kind.JOB
    if end == ":" and ((n <= 3 and words[0] in _SPEAKERS) or (n <= 4 and _FIELDS.issuperset(words))):
        return Kind.CERTAIN
    if (n <= 12 if end == ":" else n <= 4 and end not in ".?!") and _LABEL.search(said):
        return Kind.LABEL
    if told == _MASKED or words[0] in _OF_A_PERSON or (_ABOUT.intersection(words[:5]) and _ABOUT_THE_USER.match(said)):
        return Kind.CERTAIN
    if _CELLS.search(piece):
        return Kind.CERTAIN
    if piece[0] == "<" and end == ">" and (_FIELDS.issuperset(words) or words[0] in DATA_WORDS or "=" in piece):
        return Kind.CERTAIN
    if MASK in told and n / 3 <= words.count(MASK) > 1:
        return Kind.CERTAIN
    if (words[0] in _ORDERS and len(words) > 1) or told & _ADDRESSED:
        return Kind.ORDER
    if _says(said, told & _PHRASE_WORDS, _PHRASE_PATTERNS) or (not ascii_only and _SCRIPTS.search(said)):
        return Kind.ORDER
    if end == "?" or (end in ".!。！" and (len(words) >= 3 or not ascii_only) and _is_known(told, ascii_only, said)):
        return Kind.DATA
    return Kind.FRAGMENT


def names_job(words: Sequence[str], piece: str) -> bool:
    """Whether a piece is a heading or a key below which, or after which, it is said what the agent is for."""
    return len(words) <= 2 and words[-1] in _JOB_KEYS and piece.rstrip("*_` ")[-1:] == ":"


def carries(kind: Kind, words: Sequence[str], piece: str) -> bool:
    """Whether what follows on the line, or on the next one, is of the kind of this piece: a field, a turn, a task."""
    end = piece.rstrip("*_` ")[-1:]
    if end != ":" and not (end == ">" and piece[0] == "<" and piece[1] != "/"):
        return False
    if end == ">" and kind is Kind.CERTAIN:
        return _FIELDS.issuperset(words)
    return kind is Kind.CERTAIN or (kind is Kind.JOB and len(words) <= _TITLE)


def _says(said: str, words: Iterable[str], patterns: Mapping[str, re.Pattern[str]]) -> bool:
    return any(patterns[word].search(said) for word in words)


_MASKED: Final = frozenset((MASK,))


def _is_known(told: frozenset[str], ascii_only: bool, said: str) -> bool:
    return ascii_only or not told.isdisjoint(_FUNCTION_WORDS) or _WITHOUT_SPACES.search(said) is not None


_WITHOUT_SPACES: Final = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
