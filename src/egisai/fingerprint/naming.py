"""Names an agent after the wording of its own prompt template: "You handle billing questions …" is a "Billing questions
assistant"."""

# ruff: noqa: RUF001  (other scripts and typography are what this is about)
from __future__ import annotations

import re
from typing import Final

from egisai.fingerprint.cues import DATE_WORDS, MASK, is_given_name
from egisai.fingerprint.given_names import word_set

_LONGEST: Final = 60
_WORDS: Final = 7
"""Words of a phrase that is shown whole; a longer one ends where it can be divided."""

_ROLE: Final = re.compile(
    r"\b(?:you(?: are| will be|'re|'ll be)(?: now| also)?(?: acting as| to act as)?"
    r"|(?:i want you to|please) (?:act|behave|work|serve|respond|function) as"
    r"|act as|behave as|work as|serve as|respond as|function as"
    r"|(?:assume|take on|play) the (?:role|persona|part) of"
    r"|your (?:primary |main )?(?:role|job) (?:is|will be)(?: to be| that of)?"
    r"|as(?<![\w,] as)(?= an? )|du bist|sie sind|ihr seid|tu es|vous êtes|eres|usted es|sei|lei è|você é|je bent|u bent"
    r"|jesteś|ты|вы)(?=[\s,:])[,:]?"
)
"""Searched, as `_DOING` is, in the text in lower case: ignoring case takes four times as long."""

_ROLE_CJK: Final = re.compile(
    r"(?:你|您)(?:现在)?是(?:一[个名位款只])?(?P<zh>[^\s,，。.;；!！?？]{2,24})"
    r"|あなたは(?P<ja>[^\s,，。.;；!！?？]{2,24}?)です|당신은 (?P<ko>[^,.!?]{2,24}?)(?:입니다|이다)"
)
_DOING: Final = re.compile(
    r"\b(?:your (?:primary |main |sole |only )?(?:task|job|role|goal|purpose|mission"
    r"|responsibility|objective) (?:is|will be)(?: to)?|you(?: will| should| must| only)?"
    r"|i want you to)(?= [a-z])"
)
_HEADED: Final = re.compile(
    r"(?:^|\n)[#*\s>-]*(?:role|persona|agent name|agent|identity|title"
    r"|name)[*\s]*[:\n][*\s]*(?P<title>[^\n]{2,200})",
    re.IGNORECASE,
)
_ARTICLE: Final = re.compile(r"(?:an?|the|my|our|one|ein|eine|einen|un|une|uno|una|um|uma|een)\s+", re.IGNORECASE)
_CHATTER: Final = re.compile(
    r"(?:(?:very|highly|extremely|exceptionally|incredibly|super|ultra|hyper|most|world[- ]class|helpful"
    r"|friendly|polite|kind|advanced|skilled|experienced|seasoned"
    r"|professional|brilliant|intelligent|super-intelligent|hyper-intelligent|talented|ultra-wise|all-knowing"
    r"|knowledgeable|versatile|perceptive|careful|concise|meticulous|expert-level|reliable|trusted"
    r"|excellent|great|powerful|smart|custom|leading|top|curious|nice|good|thoughtful|capable|freundlicher?"
    r"|hilfreicher?|utile|útil)(?:,? and|,)?\s+)+",
    re.IGNORECASE,
)
_BARE_ROLE: Final = re.compile(
    r"(?:[a-z-]+ ){0,2}(?:assistant|agent|bot|expert|tutor|coach|planner|reviewer|translator|writer|editor|analyst)\b"
)
_VAGUE: Final = word_set(
    """
    ai assistant agent bot chatbot model expert system helper person llm one tool language large intelligence
    artificial gpt service virtual digital universal
    """
)
_SPECIALISED: Final = re.compile(
    r"^(?P<head>[\w -]{1,40}?),?\s+(?:(?:that|who|which|and you) )?(?:is |are )?(?:specialized|specialised"
    r"|specializing|specialising|specializes|specialises|specialize|specialise|trained|tasked|designed|focused"
    r"|focusing|built|created|responsible|dedicated)\s+(?:in|to|for|on|with)\s+",
    re.IGNORECASE,
)
_PHRASE_END: Final = re.compile(
    rf"[.;:!?()\[\]{{}}<>|=\"{MASK}\n。！？，；،؟।]| - | -- |\s(?:that|who|whose|which|when|where|while|because|if"
    rf"|unless|according|based|named|called|you|your|wherever"
    r"|whom|powered|running|with the goal|as described|as defined|der|die|das|qui|que)\b",
    re.IGNORECASE,
)
_JOINTS: Final = word_set(
    """
    and or for with to from in on of at by about into via using the a an your any all as & under its their whose not
    also per
    """
)
_SERVES: Final = word_set(
    """
    for of to with serving helping assisting supporting from behalf by
    """
)
_SERVANTS: Final = word_set(
    """
    assistant agent secretary aide companion concierge helper bot chatbot copilot butler support representative rep
    planner manager service coach buddy friend
    """
)
_HANDLES: Final = re.compile(
    r"^(?:handle|handles|answer|resolve|manage|process|triage|deal with|take care of|work on|respond to"
    r"|look after|are responsible for|support)\s+",
    re.IGNORECASE,
)
_MANNER: Final = re.compile(
    r"^(?:must|should|will|can|may|need|have|do|don't|always|never|think|love|want|know"
    r"|excel|take|get|receive|only|also|cannot|won't|'ll|consume|fully|are|understand|be)\b",
    re.IGNORECASE,
)
_BARE: Final = re.compile(r"[^\W\d_](?:[\w'+#/&.-]*[\w+#])?|\d[\w-]{0,4}")
_PROPER: Final = re.compile(
    r"^(?P<own>[^\W\d_a-z][\w'-]{1,20}(?: [^\W\d_a-z][\w'-]{1,20})?),\s+(?:an?|the|our"
    r"|your)\s+(?P<role>.+)",
    re.DOTALL,
)
_INTRODUCED: Final = re.compile(r"^(?:[^\W\d_a-z][\w'-]+ ){1,3}(?:is|has|was|wants|lives|prefers|works|likes)\b")
_OWNED: Final = re.compile(rf"^(?:(?:[^\W\d_a-z][\w-]+ ){{0,2}}[^\W\d_a-z][\w-]+|{MASK})'s?\s+(?=\w)")
_TASKED: Final = re.compile(
    r"(?:tasked with|responsible for|here to|in charge of|designed to|going to)\s+", re.IGNORECASE
)
_ABOUT: Final = re.compile(
    r"(?:[\w']+ )?(?P<asked>questions?|requests?|inquiries|queries|tickets?|issues?|complaints?)"
    r" (?:about|on|regarding|concerning|related to)\s+"
)
_SENTENCE_END: Final = re.compile(r"[.!?\n。！？।]+(?:\s|$)|\n+")
_FIELD: Final = re.compile(r"[\w .-]{1,30}:\s*$")
_HEADINGS: Final = word_set(
    """
    a about and background context example examples goal goals guidelines identity input instruction instructions
    introduction objective of or output overview prompt purpose role rules s steps system task tasks the title
    """
)
"""A line of these is a heading, or nothing."""


def name_of(head: str) -> str:
    """A name in sentence case of at most 60 characters, or "" when the text offers none.

    `head` is the beginning of a masked text. What is masked never gets into the name, nor does a capitalised word
    where a person may be meant ("assistant for …"): a label may say too little, but must not say whom it served.
    """
    text = _plain(head)
    return _from_role(text) or _from_title(text) or _from_task(text) or _vague(text) or _from_words(text)


def _plain(head: str) -> str:
    """The text without Markdown's marks and tags."""
    if "<" in head:
        head = _TAG.sub("", head)
    if "_" in head:
        head = _EMPHASIS.sub("", head)
    lines = head.translate(_STYLE).split("\n")
    text = "\n".join([line.lstrip(" \t#>•-") if line.lstrip(" \t").startswith(_BULLETS) else line for line in lines])
    return text.lower() if text.isupper() else text


_TAG: Final = re.compile("</?[A-Za-z][^<>\n]{0,80}>")
_EMPHASIS: Final = re.compile(r"(?<!\w)_+|_+(?!\w)")
_STYLE: Final = dict.fromkeys(map(ord, "*`~"))
_BULLETS: Final = ("#", ">", "•", "-")


def _from_role(text: str) -> str:
    script = _ROLE_CJK.search(text)
    if script is not None:
        return _finish((script["zh"] or script["ja"] or script["ko"]).split(MASK)[0])
    for role in _ROLE.finditer(text.lower()):
        name = _role_phrase(text[role.end() : role.end() + 300].strip(" ,:\n"))
        if name:
            return name
    return ""


def _role_phrase(after: str) -> str:
    """What "You are" says: "Ava, billing assistant" of "Ava, a friendly billing assistant"; "" if it is no role."""
    after = after.replace("\n", " ")
    own = ""
    if proper := _PROPER.match(after):
        own, after = f"{proper['own']}, ", proper["role"]
    elif determiner := _OWNED.match(after) or _TASKED.match(after) or _ARTICLE.match(after):
        after = after[determiner.end() :]
    elif after[:1].islower() and after.isascii() and not _CHATTER.match(after) and not _BARE_ROLE.match(after):
        return ""  # "you are asked", "you are not"
    if chatter := _CHATTER.match(after):
        after = after[chatter.end() :]
    special = _SPECIALISED.match(after)
    if special is not None and _is_vague(special["head"]):
        joint = "in" if special["head"].lower().endswith("expert") else "for"
        after = f"{special['head']} {joint} {after[special.end() :]}"
    phrase = _clip(after)
    return "" if not phrase or _is_vague(phrase) else _finish(own + phrase)


def _from_title(text: str) -> str:
    for heading in _HEADED.finditer(text):
        title = heading["title"]
        name = _clip(_ARTICLE.sub("", title, count=1) if _ARTICLE.match(title) else title)
        if name and not _is_vague(name) and not _ROLE.match(title.lower()) and not _DOING.match(title.lower()):
            return _finish(name)
    return ""


def _from_task(text: str) -> str:
    for doing in _DOING.finditer(text.lower()):
        after = text[doing.end() : doing.end() + 300].replace("\n", " ").strip()
        if _MANNER.match(after):
            continue
        handles = _HANDLES.match(after)
        if handles is None:
            name = _clip(after)
        else:
            rest = after[handles.end() :]
            about = _ABOUT.match(rest)
            matter = _clip(rest[about.end() :] if about else rest, joints=True)
            name = f"{matter} {about['asked'] if about else ''} assistant" if matter else ""
        if len(name.split()) > 1 and not _is_vague(name):
            return _finish(name)
    return ""


def _from_words(text: str) -> str:
    """The leading words of the first sentence that is more than a heading, a field or an introduction."""
    for sentence in _SENTENCE_END.split(text):
        sentence = sentence.strip(" \t-,:;'\"")
        if MASK in sentence or _FIELD.match(sentence) or _INTRODUCED.match(sentence):
            continue
        if _HEADINGS.issuperset(re.findall(r"\w+", sentence.lower())):
            continue
        name = _clip(sentence)
        if name and (" " in name or name == sentence) and not _ROLE.match(f"{name} ".lower()):
            return _finish(name)
    return ""


def _vague(text: str) -> str:
    """What a prompt that says no more than "You are a helpful assistant" says."""
    role = _ROLE.search(text.lower())
    if role is None:
        return ""
    after = text[role.end() : role.end() + 200].strip(" ,:\n").replace("\n", " ")
    article = _ARTICLE.match(after)
    return _finish(_clip(after[article.end() :] if article else after))


def _is_vague(phrase: str) -> bool:
    return _VAGUE.issuperset(re.findall(r"\w+", phrase.lower()))


def _clip(text: str, *, joints: bool = False) -> str:
    """The leading words of a phrase, up to where it ends or can be divided; with `joints`, up to its first joint."""
    end = _PHRASE_END.search(text)
    phrase = text[: end.start()] if end is not None else text[:200]
    words: list[str] = []
    cut = 0
    for raw in phrase.replace(",", " , ").split():
        word = raw.strip("'\"")
        lower = word.lower()
        if word == "," and words:
            cut = cut or len(words)
            if joints or len(words) >= 3:
                break
            continue
        if "@" in word or not _BARE.fullmatch(word):
            if word in ("-", "&", ""):
                continue
            break
        if is_given_name(word) or _may_be_served(words, word):
            break
        if lower in _JOINTS and words:
            if joints and lower not in ("and", "or", "&", "of"):
                break
            if len(words) >= 2:
                cut = len(words)
        if len(words) == _WORDS:
            if cut >= 2:
                del words[cut:]
            break
        words.append(word)
    while words and (words[-1].lower() in _JOINTS or words[-1].lower() in DATE_WORDS or words[-1].lower() in _SERVES):
        words.pop()
    return " ".join(words)


def _may_be_served(words: list[str], word: str) -> bool:
    """Whether a capitalised word may be whom the agent serves: it follows "for" or the like, after "assistant"."""
    if len(words) < 2 or not word[:1].isupper() or word.isupper():
        return False
    return words[-1].lower() in _SERVES and any(
        before.lower() in _SERVANTS or before.lower() in _SERVES for before in words[:-1]
    )


def _finish(phrase: str) -> str:
    name = " ".join(phrase.replace(MASK, " ").split()).strip(" ,-'\"")
    while len(name) > _LONGEST:
        shorter = name.rpartition(" ")[0]
        name = shorter or name[:_LONGEST]
    words = name.split()
    while words and words[-1].lower() in _JOINTS:
        words.pop()
    name = " ".join(words)
    return name[:1].upper() + name[1:]
