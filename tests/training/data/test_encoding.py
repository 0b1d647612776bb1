"""The encoding of tables that are not UTF-8."""

import pytest

from training.data import encoding

TEXTS = {
    "cp1252": [
        "Die Rechnung vom 3. ist falsch, bitte korrigieren Sie den Betrag für größere Räume",
        "J'ai été très déçu par cet hôtel, le personnel n'était pas à l'écoute",
        "I\u2019ll pay £5 for “this” \u2013 don't worry",
        "¿Dónde está el niño? ¡No me gustó la habitación!",
    ],
    "cp1251": ["Отличный телефон, очень доволен покупкой. Быстрая доставка"],
    "koi8_r": ["Отличный телефон, очень доволен покупкой. Быстрая доставка"],
    "cp1250": [
        "Nie polecam, paczka przyszła uszkodzona, a kontakt jest żaden. Pieniądze wyrzucone w błoto",
        "Příliš žluťoučký kůň úpěl",
    ],
    "cp1253": ["Πολύ καλό προϊόν, γρήγορη παράδοση, το συνιστώ"],
    "cp1254": ["Çok güzel bir ürün, h\u0131zl\u0131 kargo, teşekkürler. Kalitesi iyi değil, şikayetçiyim"],
    "cp1256": ["منتج جيد جدا والتوصيل سريع وأنصح به"],
    "gb18030": ["这家酒店的服务非常好。房间干净舒适。价格实惠"],
    "big5": ["這家酒店的服務非常好。房間乾淨舒適。"],
    "shift_jis": ["このホテルのサービスはとても良かったです。また行きたい"],
    "cp949": ["이 호텔의 서비스는 매우 좋았습니다. 방이 깨끗합니다"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_a_table_in_the_encoding_of_a_language_is_read(name: str, text: str) -> None:
    """What is guessed decodes the table to what was written."""
    content = "text,label\n" + f"{text},1\nplain,0\n" * 10
    assert content.encode(name).decode(encoding.guess(content.encode(name))) == content
