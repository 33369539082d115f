"""Guesses the language of a leaf from its writing system and its most frequent words.

Made for one question: is this leaf in a language that the repository takes? So it says nothing rather than
something doubtful. Of 14 languages in Latin letters it needs about 25 words of running text, of which at
least every eighth is one of the language's 30 to 40 most frequent words and a quarter more than of any other
language; lists of names, code and tables give no answer. Other writing systems need 40 % of the letters.
Relatives that share most frequent words (Danish and Norwegian, Czech and Slovak) count as one. Measured on
two short paragraphs of each language (`tests/lab/taxonomy/test_language.py`): all are told; 12 words are
too few for a third of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

LEAST_WORDS = 25
_SHARE = 0.125
_LEAD = 1.25
# fmt: off
_PROFILES = {
    "en": (
        "the of and to in is that it was for on are as with his they be at this from have or by not "
        "but what which you were her"
    ),
    "de": (
        "der die das und ist von zu den mit sich des auf für nicht ein eine dem im auch es an werden "
        "aus er hat dass sie nach wird bei was wir uns noch nur wie so"
    ),
    "fr": (
        "le la les des et est en un une du que qui dans pour pas au sur plus par ne se il sont avec "
        "ce cette elle ou aux leur"
    ),
    "es": (
        "el la los las de que y en un una es por con para del se no su al lo como más pero sus le "
        "está son este entre cuando"
    ),
    "it": (
        "il la di che e è un una per non con sono del della dei le gli in si da al nel alla come più "
        "anche ma lo questo dalla"
    ),
    "pt": (
        "o a os as de que e do da em um uma para com não por mais dos das se na no ao é como mas foi "
        "pelo são também"
    ),
    "nl": (
        "de het een van en is dat op te in niet zijn voor met die aan er om ook door bij naar uit "
        "wordt maar als worden deze heeft nog"
    ),
    "da": (
        "og i at det er en til af på som med den de der ikke for et har var fra men kan om sig han "
        "blev også efter ved eller"
    ),
    "sv": (
        "och i att det som en på är av för med den till inte om ett har de var från men kan så vid "
        "eller när sig också efter under"
    ),
    "fi": (
        "ja on ei se että oli hän joka ovat mutta myös kun sen niin kuin tai mukaan sekä vain vuonna "
        "ole ne jos tämä ollut olla voi hänen siitä"
    ),
    "pl": (
        "i w na z do się nie to że jest o jak po co za od przez są był dla ale ma jego które oraz "
        "może przy także tym już"
    ),
    "cs": (
        "a v na se je to že s z do o ve i k po za by pro jako ale jsou od byl které jeho nebo také "
        "který při podle"
    ),
    "tr": (
        "ve bir bu da de için ile olarak çok daha olan gibi en kadar ne var sonra ama değil her göre "
        "o ise ya hem yok ki mi onun oldu"
    ),
    "id": (
        "yang dan di dengan untuk dari ini itu pada dalam tidak adalah ke oleh akan juga sebagai atau "
        "ada karena mereka telah dapat lebih bisa kami saya anda tersebut seperti"
    ),
}
# fmt: on
_WORDS = {language: frozenset(text.split()) for language, text in _PROFILES.items()}
_INDEX: dict[str, tuple[str, ...]] = {
    word: tuple(language for language, known in _WORDS.items() if word in known)
    for word in frozenset().union(*_WORDS.values())
}
# Languages that this cannot tell apart are one: the first names them.
_KIN = {
    "no": "da", "nb": "da", "nn": "da", "sk": "cs", "ms": "id", "gl": "pt",
    "uk": "ru", "bg": "ru", "sr": "ru", "mk": "ru", "be": "ru", "kk": "ru",
    "fa": "ar", "ur": "ar", "ps": "ar", "mr": "hi", "ne": "hi", "sa": "hi", "yi": "he",
}  # fmt: skip
_SCRIPTS = (
    ("ja", "\u3040-\u30ff"),
    ("ko", "\uac00-\ud7a3\u1100-\u11ff"),
    ("zh", "\u4e00-\u9fff\u3400-\u4dbf"),
    ("ru", "\u0400-\u04ff"),
    ("ar", "\u0600-\u06ff"),
    ("el", "\u0370-\u03ff"),
    ("he", "\u0590-\u05ff"),
    ("hi", "\u0900-\u097f"),
    ("bn", "\u0980-\u09ff"),
    ("ta", "\u0b80-\u0bff"),
    ("th", "\u0e00-\u0e7f"),
    ("ka", "\u10a0-\u10ff"),
    ("hy", "\u0530-\u058f"),
)
_SCRIPT = {language: re.compile(f"[{letters}]") for language, letters in _SCRIPTS}
NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "da": "Danish or Norwegian", "sv": "Swedish", "fi": "Finnish", "pl": "Polish",
    "cs": "Czech or Slovak", "tr": "Turkish", "id": "Indonesian or Malay", "ja": "Japanese", "ko": "Korean",
    "zh": "Chinese", "ru": "a language in Cyrillic letters", "ar": "a language in Arabic letters",
    "el": "Greek", "he": "Hebrew", "hi": "a language in Devanagari letters", "bn": "Bengali", "ta": "Tamil",
    "th": "Thai", "ka": "Georgian", "hy": "Armenian",
}  # fmt: skip


def detect(found: Sequence[str]) -> str | None:
    """The language of the words (lower case), or None when they do not tell. See the module for limits."""
    written = _by_script(found)
    if written is not None or len(found) < LEAST_WORDS:
        return written
    hits = _hits(found)
    if not hits:
        return None
    (best, count), *others = hits.most_common(2)
    lead = not others or count >= _LEAD * others[0][1]
    return best if count >= _SHARE * len(found) and lead else None


def foreign(found: Sequence[str], allowed: Collection[str]) -> str | None:
    """The language that the words are in, when it is surely none of `allowed`. Text with a good part in an
    allowed language (a translation, a phrase book) passes."""
    if not allowed:
        return None
    taken = {_KIN.get(each.split("-")[0].lower(), each.split("-")[0].lower()) for each in allowed}
    told = detect(found)
    if told is None or told in taken:
        return None
    hits = _hits(found)
    # Frequent words that two languages share (`in`, `so`) speak for neither.
    own = Counter(_INDEX[word] for word in found if len(_INDEX.get(word, ())) == 1)
    most = max((own[(each,)] for each in taken), default=0)
    return None if most > 0.4 * hits[told] else told


def _hits(found: Sequence[str]) -> Counter[str]:
    hits: Counter[str] = Counter()
    for word, count in Counter(found).items():
        for language in _INDEX.get(word, ()):
            hits[language] += count
    return hits


def _by_script(found: Sequence[str]) -> str | None:
    sample = "".join(found[:2000])[:20000]
    if len(sample) < 20 or sample.isascii():
        return None
    for language, letters in _SCRIPT.items():
        share = len(letters.findall(sample)) / len(sample)
        # Japanese writes Chinese signs between its own, so a part of its own letters is enough.
        if share >= (0.15 if language == "ja" else 0.4):
            return language
    return None
