"""The fixed wordings after which something stands that varies from call to call: "The user's name is", "Today is"."""

# ruff: noqa: RUF001  (other scripts and typography are what this is about)
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from egisai.fingerprint.given_names import GIVEN_NAMES, word_set

MASK: Final = "\x1a"
"""Stands for anything that varies (SUBSTITUTE, which no cleaned text contains). There is one mask for all kinds, and
neighbours merge, so that neither the kind nor the number of inserted values is part of the template."""

# --- what values look like -----------------------------------------------------------------------------------------

_UP: Final = "A-ZÀ-ÖØ-ÞĀ-ŽΆ-ΫЀ-Я"
_OPENERS: Final = (
    "You Your The A An This That These It Its He She They We I In On At As For To If When And Or But Be Is Are Do Use "
    "Answer Always Never Please Only Help Respond Reply Keep Make Provide Write Today Current Note What How Why Who "
    "Their There Here No Not None Unknown Ask Tell Treat Greet Address Speak Call Remember Ensure Follow Give Try"
)
"""Words that are capitalised because a sentence begins with them: a name ends before them."""

_ROLE_NOUNS: Final = word_set(
    """
    adviser advisor agent ai analyst app assistant bot chatbot coach companion concierge copilot desk developer
    doctor editor engineer expert guide helper help lawyer manager model nurse planner poet reviewer sales service
    specialist support system teacher team tool translator tutor writer admin administrator anonymous customer guest
    user client
    """
)
"""Nobody is called that: a field named "name" with such a value names the agent."""

_PLAIN: Final = rf"(?!(?:{'|'.join(_OPENERS.split())})\b)"
_TITLE: Final = r"(?:Mr|Mrs|Ms|Mx|Miss|Dr|Prof|Herr|Frau|Mme|Sr|Sra|Señor|Señora|Monsieur|Madame)\.? "
_PARTICLES: Final = r"(?: (?:de|da|do|del|della|di|von|van|der|den|la|le|bin|ibn|al|el|y)){0,2}"
_NAME: Final = (
    rf"(?:{_TITLE})?{_PLAIN}[{_UP}][\w'-]{{0,30}}(?:{_PARTICLES} (?:[{_UP}]\."
    rf"|{_PLAIN}[{_UP}][\w'-]{{0,30}})(?![\w'-]*:)){{0,3}}"
)
"""One to four capitalised words."""

_OPEN: Final = r"\s?[\"'*_`(\[]{0,3}"
_ANY_NAME: Final = re.compile(
    rf"{_OPEN}(?P<value>{_NAME}"
    rf"|[^\W\d]\w{{0,30}}(?: [^\W\d]\w{{0,30}}){{0,2}}(?=[.,;\n\"'*`)]|$))"
)
_CAPITALISED: Final = re.compile(rf"{_OPEN}(?P<value>{_NAME})")
_PERSON: Final = re.compile(rf"{_OPEN}(?P<value>{_NAME}|[a-z]{{2,30}})(?P<record>\s?[(<\[][^)>\]\n]{{0,60}}{MASK})?")
_OWNER: Final = re.compile(rf"\s(?P<value>{_PLAIN}[{_UP}][\w-]{{0,30}}(?: [{_UP}][\w-]{{0,30}})?)'s(?= (?P<whose>\w+))")
_FIELD: Final = re.compile(
    rf"{_OPEN}(?P<value>{_NAME}(?=\s"
    rf"|[,;.|)(\[<*\"'`]|$)|[\w.@+{MASK}-]{{1,64}}(?=[\n,;.|)]|$))"
)
_WORD: Final = re.compile(r"\s?(?P<value>[^\s,，。;；、:：<>()（）はがです]{1,24})")
_LINE: Final = re.compile(r" ?(?P<value>[^\n]{1,120})(?=\n|$)")
_LOCALE: Final = re.compile(
    rf"{_OPEN}(?P<value>[a-z]{{2,3}}(?:[-_][A-Za-z]{{2,4}}){{0,2}}(?![\w'])|{_NAME}(?: \([^)\n]{{1,40}}\))?|{MASK})"
)
_VERSIONED: Final = rf"{_PLAIN}[{_UP}{MASK}][\w-]{{0,30}}(?:\.\d{{1,4}})?"
_MODEL: Final = re.compile(rf"{_OPEN}(?P<value>{_VERSIONED}(?: {_VERSIONED}){{0,3}})")

_LANGUAGE: Final = re.compile(
    r"\s(?P<value>(?:(?:american|british|canadian|brazilian|simplified|traditional|mexican|swiss) )?"
    r"(?:english|german|french|spanish|italian|portuguese|dutch|polish|russian|ukrainian|czech|turkish|greek|swedish"
    r"|danish|norwegian|finnish|hungarian|romanian|arabic|hebrew|hindi|bengali|urdu|tamil|chinese|mandarin|japanese"
    r"|korean|vietnamese|thai|indonesian)\b)",
    re.IGNORECASE,
)

DATE_WORDS: Final = word_set(
    """
    january february march april may june july august september october november december jan feb mar apr jun jul
    aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur
    thurs fri sat sun januar jänner februar märz mai juni juli oktober dezember montag dienstag mittwoch donnerstag
    freitag samstag sonnabend sonntag uhr janvier février mars avril juin juillet août septembre octobre novembre
    décembre lundi mardi mercredi jeudi vendredi samedi dimanche enero febrero marzo abril mayo junio julio agosto
    septiembre octubre noviembre diciembre lunes martes miércoles jueves viernes sábado domingo gennaio febbraio
    aprile maggio giugno luglio settembre ottobre dicembre lunedì martedì mercoledì giovedì venerdì sabato domenica
    janeiro fevereiro março maio junho julho setembro outubro novembro dezembro segunda terça quarta quinta sexta
    feira januari februari maart mei augustus maandag dinsdag woensdag donderdag vrijdag zaterdag zondag января
    февраля марта апреля мая июня июля августа сентября октября ноября декабря понедельник вторник среда четверг
    пятница суббота воскресенье stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października
    listopada grudnia يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر जनवरी फ़रवरी फरवरी
    मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर am pm utc utc+ gmt+ gmt cet cest est edt cst cdt mst mdt pst
    pdt bst ist jst morning afternoon evening night noon midnight
    """
)
"""Part of a date when beside a number, or after "today is". Folded; in the languages whose calendars are common."""

DATE_LINKS: Final = word_set(
    """
    of the de at on um à a las del den le el
    """
)
"""May stand between the words of a date."""

_DATE: Final = re.compile(
    rf"\s?(?P<value>(?:{'|'.join(map(re.escape, sorted(DATE_WORDS, key=lambda word: (-len(word), word))))})\b"
    r"(?:,? (?:in the )?(?:morning|afternoon|evening|night|noon))?)",
    re.IGNORECASE,
)

# --- wordings ------------------------------------------------------------------------------------------------------

_WHO: Final = (
    r"(?:user|customer|client|caller|patient|student|guest|member|visitor|employee|traveller|traveler|passenger|buyer"
    r"|subscriber|tenant|recipient|candidate|applicant|learner|player|account holder)"
)
_WHO_ELSEWHERE: Final = (
    r"(?:benutzername|benutzer|nutzer|kunde|kundin|kundenname|utilisateur|client|nom du client|usuario|cliente"
    r"|usuário"
    r"|utente)"
)
_WHOSE_ELSEWHERE: Final = (
    r"(?:des benutzers|des nutzers|des kunden|der kundin|de l'utilisateur|du client|del usuario|del cliente"
    r"|do usuário"
    r"|do cliente|dell'utente)"
)
_SERVING: Final = (
    r"(?:assistant|secretary|agent|aide|coach|tutor|companion|concierge|advis[eo]r|helper|bot|copilot|butler|planner"
    r"|manager|support)"
)
_PERSONAL: Final = re.compile(r"\b(?:personal|private|executive|dedicated|own)\b[^.\n]{0,40}$", re.IGNORECASE)
_ORGANISATION: Final = re.compile(
    r"\b(?:Inc|Corp|Corporation|Ltd|LLC|GmbH|AG|Co|Company|Group|Bank|University|Team|Store|Shop|Labs?|Health"
    r"|Insurance|Airlines?|Airways|Hotels?|Services|Systems|Technologies|Foundation)\b"
)


@dataclass(frozen=True, slots=True)
class Cue:
    """A wording and what stands after it.

    Attributes:
        reason: what it catches.
        needs: the patterns are tried only on text that has one of these words; None for text beyond ASCII, in scripts
            that do not divide words.
        wording: searched in the text in lower case.
        value: matched where the wording ends, in the text as it was written; its group `value` is masked.
        holds: whether a match is what it looks like, given the text up to the value; None for always.
        learn: whether the value names a person, who is then masked wherever else they are named.
    """

    reason: str
    needs: frozenset[str] | None
    wording: re.Pattern[str]
    value: re.Pattern[str]
    holds: Callable[[re.Match[str], str], bool] | None = None
    learn: bool = False


def mask_cue(cue: Cue, text: str, lower: str, learned: set[str]) -> str:
    """The text with the values after a cue masked; the same object if there is none.

    `lower` is the text in lower case, letter for letter. Adds the names found to `learned` when the cue says so.
    """
    pieces: list[str] = []
    at = 0
    for wording in cue.wording.finditer(lower):
        if wording.start() < at:
            continue
        value = cue.value.match(text, wording.end())
        if value is None or (
            cue.holds is not None and not cue.holds(value, text[max(0, wording.start() - 60) : wording.end()])
        ):
            continue
        start, end = value.span("value")
        pieces += (text[at:start], MASK)
        at = end
        if cue.learn:
            learned.add(value["value"])
    if not pieces:
        return text
    pieces.append(text[at:])
    return "".join(pieces)


def spelled(learned: set[str]) -> re.Pattern[str] | None:
    """A pattern for the people whom the cues named, whole or by one part of their name; None if there is nobody.

    Only capitalised words that nobody's sentence or role begins with can be recognised: "Will" and "Guest" stay.
    """
    words: set[str] = set()
    for name in learned:
        if " " in name:
            words.add(name)
        for word in _PART.findall(name):
            if len(word) > 1 and word.lower() not in _ROLE_NOUNS and word.lower() not in _EVERYDAY:
                words.add(word)
    if not words:
        return None
    anyone = "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))[:_LEARNED]))
    return re.compile(rf"\b(?:{anyone})(?: (?:{anyone}))*(?!\w)")


_LEARNED: Final = 32
"""Parts of names that one text can teach: more is a list of people, not the user."""

_PART: Final = re.compile(rf"[{_UP}][\w'-]+|[^\x00-\u02ff\W]+")
_EVERYDAY: Final = word_set(_OPENERS.lower()) | word_set(
    """
    art bill best black brown case christian cook faith grace green hope joy king law long may mark page price rich rose
    smart summer sunny white will young english german french spanish chinese japanese
    """
)


# --- evidence ------------------------------------------------------------------------------------------------------


def is_given_name(word: str) -> bool:
    """Whether a word is a given name and nothing else."""
    return word.casefold() in GIVEN_NAMES


def _is_person(value: re.Match[str], before: str) -> bool:
    """Whether whom an agent serves is a person: a title, a given name, a record in brackets (an address, an id), or two
    capitalised words after "personal". Companies and products are what a role is about, and stay."""
    name = value["value"]
    if re.match(_TITLE, name) or is_given_name(name.split()[0]):
        return True
    if not name[0].isupper() or _ORGANISATION.search(name):
        return False
    return value["record"] is not None or (" " in name and _PERSONAL.search(before) is not None)


def _is_owner(value: re.Match[str], before: str) -> bool:  # noqa: ARG001  (the same call for all)
    """Whether the owner of a role is a person: of "Maria's agent", "Xu's personal agent", but not "Acme's agent"."""
    personal = value["whose"].lower() in ("personal", "private", "executive", "dedicated", "own")
    return is_given_name(value["value"].split()[0]) or (personal and not _ORGANISATION.search(value["value"]))


def _is_nobodys_role(value: re.Match[str], before: str) -> bool:  # noqa: ARG001
    """Whether a bare "Name:" can be a person's: "Name: Billing agent" is what the agent is called."""
    return _ROLE_NOUNS.isdisjoint(value["value"].lower().split())


CUES: Final = (
    Cue(
        "the user's name, said in a sentence or as a field of theirs",
        word_set("name username named called nombre nom nome heisse appelle llamo"),
        re.compile(
            rf"\b(?:{_WHO}(?:'s|s')? (?:(?:full|first|last|display|given) ?)?name(?: is|\s?[:=])"
            rf"|{_WHO} (?:is )?(?:named|called)|(?:my|his|her|their) name is|user_?name\s?[:=]"
            rf"|(?:name|nombre|nome|nom) {_WHOSE_ELSEWHERE} (?:ist|es|è|é|est|lautet)|mein name ist|ich heiße"
            r"|je m'appelle|me llamo)[*_]{0,2}(?=\s)"
        ),
        _ANY_NAME,
        learn=True,
    ),
    Cue(
        "a name as a field",
        word_set("name"),
        re.compile(r"\b(?:(?:full|first|last|display|given) ?)?name\*{0,2}\s?[:=]\*{0,2}(?=\s)"),
        _ANY_NAME,
        holds=_is_nobodys_role,
    ),
    Cue(
        "the user as a field",
        word_set(
            "user customer client caller patient student guest member visitor employee traveller traveler passenger "
            "buyer subscriber tenant recipient candidate applicant learner player holder benutzername benutzer nutzer "
            "kunde kundin kundenname utilisateur usuario cliente usuário utente"
        ),
        re.compile(
            rf"(?:^|(?<=[\n(|,;*_])|(?<=[.!?:*-] ))(?:current |active |logged[- ]in )?"
            rf"(?:{_WHO}|{_WHO_ELSEWHERE})\*{{0,2}}\s?[:=]\*{{0,2}}(?=\s)"
        ),
        _FIELD,
        holds=_is_nobodys_role,
        learn=True,
    ),
    Cue(
        "whom the agent talks to",
        word_set("talking speaking chatting logged signed sprichst sprechen parles parlez hablando parlando falando"),
        re.compile(
            rf"\b(?:(?:talking|speaking|chatting) (?:to|with)(?: (?:the |our |an? )?{_WHO},?)?|(?:logged"
            rf"|signed)[- ]in as"
            r"|(?:du sprichst|sie sprechen) (?:gerade |jetzt )?mit|(?:tu parles|vous parlez) (?:à|avec)"
            r"|(?:estás|está) hablando con|stai parlando con|falando com)(?= )"
        ),
        _CAPITALISED,
        learn=True,
    ),
    Cue(
        "a greeting",
        word_set("hello hi hey dear welcome hallo bonjour hola ciao olá"),
        re.compile(
            r"(?:^|(?<=\n)|(?<=[.!?] ))(?:hello|hi|hey|dear|welcome(?: back)?|hallo|bonjour|hola|ciao"
            r"|olá),?(?= )"
        ),
        re.compile(rf" (?P<value>{_NAME})(?=\s?[,!.:]|\n|$)"),
        learn=True,
    ),
    Cue(
        "a person introduced as the user",
        word_set("user customer client patient student member guest employee"),
        re.compile(r"(?:^|(?<=\n)|(?<=[.!?] ))(?=\w)"),
        re.compile(rf"(?P<value>{_NAME}) is (?:an?|the|our) (?:[\w-]{{1,20}} ){{0,3}}{_WHO}\b"),
        learn=True,
    ),
    Cue(
        "the person whom the agent serves",
        word_set(
            "assistant secretary agent aide coach tutor companion concierge advisor adviser helper bot copilot butler "
            "planner manager support behalf assisting helping serving supporting assist help"
        ),
        re.compile(
            rf"\b(?:{_SERVING} (?:of|for|to|serving|helping|working (?:for|with)|assigned to)|on behalf of"
            rf"|(?:assisting|helping|serving|supporting|assist|help)(?: (?:the |our )?{_WHO},?)?)(?= )"
        ),
        _PERSON,
        holds=_is_person,
        learn=True,
    ),
    Cue(
        "the person whose agent it is",
        word_set("s"),
        re.compile(r"\b(?:you are|you're|as)(?= )"),
        _OWNER,
        holds=_is_owner,
        learn=True,
    ),
    Cue(
        "用户 and ユーザー: the user as a field or in a sentence, in scripts without capitals",
        None,
        re.compile(
            r"(?:用户|用戶|客户|客戶)(?:的)?(?:姓名|名字|名称|名)?\s?(?:是|为|為|:)|姓名\s?:"
            r"|(?:ユーザー|お客様|顧客)(?:の)?(?:お?名前|氏名|名)?\s?(?:は|:)"
            r"|(?:사용자|고객)(?:의)? ?(?:이름|명)?(?:은|는|\s?:)"
            r"|(?:اسم )?(?:المستخدم|العميل)(?: هو|\s?:)|(?:उपयोगकर्ता|ग्राहक)(?: का नाम|\s?:)"
            r"|(?:имя пользователя|имя клиента|пользователь|клиент)\s?:"
        ),
        _WORD,
        learn=True,
    ),
    Cue(
        "a locale, language, time zone, currency or country as a field",
        word_set(
            "locale language lang timezone zone tz region currency country city location sprache zeitzone langue "
            "horaire idioma horaria"
        ),
        re.compile(
            r"\b(?:(?:locale|language|lang|time ?zone|tz|region|currency|country|city|location|sprache|zeitzone"
            r"|langue"
            r"|fuseau horaire|idioma|zona horaria)\*{0,2}\s?[:=]\*{0,2}|(?:locale|time ?zone|preferred language"
            r"|currency)"
            r" is)(?=[\s\"'`])"
        ),
        _LOCALE,
    ),
    Cue(
        "the language to answer in: a setting, where the languages of a translator are its role",
        word_set("answer respond reply communicate responses replies answers"),
        re.compile(
            r"\b(?:answer|respond|reply|communicate|responses|replies|answers)(?: (?:only|always|strictly|exclusively"
            r"|back|must be|should be|written|to the user|to the customer)){0,2} in(?= )"
        ),
        _LANGUAGE,
    ),
    Cue(
        "fields of a profile, to the end of their line",
        word_set(
            "account plan subscription tier membership phone telephone address email mail birth birthday age company "
            "employer title occupation department since login session request order orders balance interests hobbies "
            "preferences konto adresse telefon compte cuenta dirección teléfono"
        ),
        re.compile(
            r"(?:^|(?<=\n))[-*• ]{0,4}(?:account|account type|plan|subscription|tier|membership|phone|telephone"
            r"|address"
            r"|e-?mail|date of birth|birthday|age|company|employer|job title|occupation|department|customer since"
            r"|member since|last login|session|request id|orders?|balance|interests|hobbies|preferences|konto|adresse"
            r"|telefon|compte|cuenta|dirección|teléfono)\*{0,2}\s?:\*{0,2}(?= )"
        ),
        _LINE,
    ),
    Cue(
        "the day, where no number says that it is a date",
        word_set("today current now it heute aujourd nous hoy oggi hoje"),
        re.compile(
            r"\b(?:today(?:'s (?:date|day))?(?: is|\s?:)|current (?:local )?(?:date(?: and time)?|time|day"
            r"|datetime|month"
            r"|weekday)(?: is|\s?[:=])|it is(?: currently| now)?|now(?: is|\s?:)|heute ist(?: der)?"
            r"|aujourd'hui,? (?:c'est|nous sommes)(?: le)?|nous sommes(?: le)?|hoy es(?: el)?|oggi è|hoje é)(?=\s)"
        ),
        _DATE,
    ),
    Cue(
        "the model underneath",
        word_set("model powered running"),
        re.compile(r"\b(?:powered by|running on|model(?: name| id)?(?: is|\s?[:=]))(?= )"),
        _MODEL,
    ),
)
"""In the order in which they are tried."""

CUE_WORDS: Final = frozenset[str]().union(*[cue.needs for cue in CUES if cue.needs is not None])
"""A text with none of these words has no cue."""
