# ruff: noqa: E501, ISC004 - running text of many languages
"""The guess at a leaf's language: right on two paragraphs of each, silent when it cannot know."""

from __future__ import annotations

import pytest

from lab.taxonomy.language import detect, foreign
from lab.taxonomy.passages import words

TEXTS = {
    "en": (
        "The lighthouse stands on the northern cliff of the island. It was built for the ships that come from "
        "the west, and it has been kept by the same family since then.",
        "When the water is too cold, the yeast does not rise. You should wait for an hour before you put the "
        "dough into the oven, or it will be as hard as a stone.",
    ),
    "de": (
        "Der Leuchtturm steht auf der nördlichen Klippe der Insel. Er wurde für die Schiffe gebaut, die aus dem "
        "Westen kommen, und wird seitdem von derselben Familie betreut.",
        "Wenn das Wasser zu kalt ist, geht die Hefe nicht auf. Man sollte eine Stunde warten, bevor man den "
        "Teig in den Ofen schiebt, sonst wird er so hart wie ein Stein.",
    ),
    "fr": (
        "Le phare se trouve sur la falaise au nord de l'île. Il a été construit pour les bateaux qui viennent de "
        "l'ouest, et la même famille le garde depuis ce temps.",
        "Si l'eau est trop froide, la levure ne monte pas. Il faut attendre une heure avant de mettre la pâte "
        "dans le four, ou elle sera dure comme une pierre.",
    ),
    "es": (
        "El faro está en el acantilado del norte de la isla. Fue construido para los barcos que vienen del "
        "oeste, y la misma familia lo cuida desde entonces.",
        "Si el agua está demasiado fría, la levadura no sube. Hay que esperar una hora antes de poner la masa "
        "en el horno, o se pone dura como una piedra.",
    ),
    "it": (
        "Il faro si trova sulla scogliera a nord dell'isola. È stato costruito per le navi che vengono da ovest, "
        "e da allora la stessa famiglia lo custodisce con cura.",
        "Se l'acqua è troppo fredda, il lievito non cresce. Bisogna aspettare un'ora prima di mettere la pasta "
        "nel forno, perché altrimenti diventa dura come una pietra.",
    ),
    "pt": (
        "O farol fica no penhasco ao norte da ilha. Foi construído para os navios que vêm do oeste, e a mesma "
        "família cuida dele desde então, com muito orgulho.",
        "Se a água está fria demais, o fermento não cresce. É preciso esperar uma hora antes de pôr a massa no "
        "forno, ou ela fica dura como uma pedra.",
    ),
    "nl": (
        "De vuurtoren staat op de noordelijke klif van het eiland. Hij is gebouwd voor de schepen die uit het "
        "westen komen, en wordt sindsdien door dezelfde familie beheerd.",
        "Als het water te koud is, rijst het gist niet. Je moet een uur wachten voor je het deeg in de oven "
        "zet, of het wordt zo hard als een steen.",
    ),
    "da": (
        "Fyrtårnet står på den nordlige klint af øen. Det blev bygget til de skibe, der kommer fra vest, og har "
        "siden været passet af den samme familie.",
        "Hvis vandet er for koldt, hæver gæren ikke. Man skal vente en time, før man sætter dejen i ovnen, "
        "eller også bliver den så hård som en sten.",
    ),
    "sv": (
        "Fyren står på den norra klippan på ön. Den byggdes för de fartyg som kommer från väst, och har sedan "
        "dess skötts av en och samma familj.",
        "Om vattnet är för kallt jäser inte degen. Man ska vänta en timme innan man sätter den i ugnen, eller "
        "så blir den hård som en sten.",
    ),
    "fi": (
        "Majakka on saaren pohjoisella kalliolla. Se on rakennettu laivoille, jotka tulevat lännestä, ja sama "
        "perhe on siitä asti pitänyt siitä huolta, kun se on ollut käytössä.",
        "Jos vesi on liian kylmää, taikina ei nouse. On hyvä odottaa tunti, ja vasta sen jälkeen taikina on "
        "valmis uuniin, mutta ei liian kauan, tai se on kova kuin kivi.",
    ),
    "pl": (
        "Latarnia stoi na północnym klifie wyspy. Została zbudowana dla statków, które płyną z zachodu, i od "
        "tego czasu opiekuje się nią ta sama rodzina, a po niej inne, co nie jest dziwne.",
        "Jeżeli woda jest za zimna, to ciasto nie rośnie. Trzeba poczekać godzinę, a po tym czasie może trafić "
        "do pieca, ale nie na długo, bo jest jak kamień.",
    ),
    "cs": (
        "Maják stojí na severním útesu ostrova. Byl postaven pro lodě, které plují ze západu, a od té doby se o "
        "něj stará stejná rodina, jako by to byl její dům.",
        "Když je voda příliš studená, těsto nekyne. Je dobré počkat hodinu, a pak se dá do trouby, ale ne na "
        "dlouho, nebo je tvrdé jako kámen, a to se nedá jíst.",
    ),
    "tr": (
        "Fener, adanın kuzey kayalığının üzerinde durur. Batıdan gelen gemiler için yapıldı ve o zamandan beri "
        "aynı aile tarafından korunur; bu aile için çok önemli bir iş oldu.",
        "Su çok soğuk ise hamur kabarmaz. Bir saat kadar beklemek ve daha sonra fırına koymak gerekir, ama çok "
        "uzun değil, yoksa bir taş gibi olur ve hiç yenmez.",
    ),
    "id": (
        "Mercusuar itu berdiri di tebing utara pulau. Bangunan ini dibuat untuk kapal yang datang dari barat, "
        "dan keluarga yang sama telah menjaga tempat itu dengan baik.",
        "Jika air terlalu dingin, adonan tidak akan naik. Anda dapat menunggu satu jam, dan setelah itu adonan "
        "bisa masuk ke dalam oven, atau akan menjadi keras seperti batu.",
    ),
    "ja": ("灯台は島の北の崖の上に立っています。西から来る船のために建てられました。",),
    "ko": ("등대는 섬의 북쪽 절벽 위에 서 있습니다. 서쪽에서 오는 배들을 위해 지어졌습니다.",),
    "zh": ("灯塔矗立在岛屿北部的悬崖上，是为从西边驶来的船只而建造的。",),
    "ru": ("Маяк стоит на северном утёсе острова. Его построили для кораблей с запада.",),
    "ar": ("تقع المنارة على الجرف الشمالي للجزيرة وقد بنيت من أجل السفن القادمة من الغرب",),
    "el": ("Ο φάρος στέκεται στον βόρειο γκρεμό του νησιού και χτίστηκε για τα πλοία.",),
}


@pytest.mark.parametrize(
    ("language", "text"), [(name, each) for name, all_ in TEXTS.items() for each in all_]
)
def test_a_paragraph_is_told(language: str, text: str) -> None:
    assert detect(words(text)) == language
    assert foreign(words(text), ["en"]) == (None if language == "en" else language)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def add(left, right): return left + right " * 8,
        "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta " * 5,
        "3 14 15 92 65 35 89 79 " * 6,
        "Too short to be told apart.",
    ],
)
def test_what_is_no_running_text_is_no_language(text: str) -> None:
    assert foreign(words(text), ["de"]) is None


def test_a_translation_belongs_to_either_of_its_languages() -> None:
    both = words(f"{TEXTS['en'][0]} {TEXTS['de'][0]} {TEXTS['de'][1]}")
    assert foreign(both, ["en"]) is None
    assert foreign(both, ["de"]) is None
    assert foreign(words(TEXTS["de"][0]), []) is None


def test_relatives_that_nobody_tells_apart_count_as_one() -> None:
    assert foreign(words(TEXTS["da"][0]), ["nb"]) is None
    assert foreign(words(TEXTS["ru"][0]), ["uk"]) is None
