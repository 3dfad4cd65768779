"""Every text of ours has a Japanese translation in good style, and the compiled catalogue is current."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import django
import polib
import pytest

from routerdash import django_texts
from tests.messages import LOCALE

SOURCES = {name: LOCALE / "ja" / "LC_MESSAGES" / f"{name}.po" for name in ("django", "djangojs")}
CATALOGUES = {name: polib.pofile(str(path)) for name, path in SOURCES.items()}
CATALOGUE = CATALOGUES["django"]
TEMPLATES = LOCALE.parent / "templates"
PLACEHOLDER = re.compile(r"%\(\w+\)\w|%[sd]|(?<!\{)\{\w*\}(?!\})|<[^>]+>")
DJANGO = Path(django.__file__).parent
DJANGO_SOURCES = [*DJANGO.glob("contrib/*/locale/ja/LC_MESSAGES/*.po"), DJANGO / "conf/locale/ja/LC_MESSAGES/django.po"]

JAPANESE = "[ぁ-んァ-ヶー一-龠々]"
HEADINGS = {"エンドポイントはまだありません", "チャットできるモデルがありません"}  # sentences all the same
SENTENCE_END = re.compile(r"(?:です|ます|ました|ません|でした|ください|しましょう)$")


def japanese(entry: polib.POEntry) -> str:
    return str(entry.msgstr_plural[0] if entry.msgid_plural else entry.msgstr)


def bare(entry: polib.POEntry) -> str:
    """Return a translation without its markup, with a sign in place of each placeholder."""
    return PLACEHOLDER.sub(lambda match: "" if match[0].startswith("<") else "◆", japanese(entry))


@pytest.mark.parametrize("name", SOURCES)
def test_all_texts_are_translated(name: str) -> None:
    catalogue = CATALOGUES[name]
    assert [entry.msgid for entry in catalogue.untranslated_entries() + catalogue.fuzzy_entries()] == []


def test_translations_keep_placeholders_and_markup() -> None:
    for entry in CATALOGUE:
        expected = PLACEHOLDER.findall(entry.msgid_plural or entry.msgid)
        assert sorted(PLACEHOLDER.findall(japanese(entry))) == sorted(expected), entry.msgid


@pytest.mark.parametrize("name", SOURCES)
def test_the_compiled_catalogue_is_current(name: str) -> None:
    def texts(catalogue: polib.POFile | polib.MOFile) -> dict[tuple[str | None, str], str]:
        return {(entry.msgctxt, entry.msgid): japanese(entry) for entry in catalogue}

    assert texts(polib.mofile(str(SOURCES[name].with_suffix(".mo")))) == texts(CATALOGUES[name])


@pytest.mark.parametrize("template", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: path.name)
def test_texts_of_templates_are_in_the_catalogue(template: Path) -> None:
    known = {entry.msgid for entry in CATALOGUE}
    texts = re.findall(r"""\{% translate (?:"([^"]+)"|'([^']+)') (?:context "[^"]+" )?%\}""", template.read_text())
    django_own = {"View site", "Documentation"}
    assert {one or other for one, other in texts} - known - django_own == set()


def test_texts_in_place_of_djangos_are_texts_of_django() -> None:
    """A Django release with another wording leaves its translation unused."""
    known = {entry.msgid for path in DJANGO_SOURCES for entry in polib.pofile(str(path))}
    calls = [
        node for node in ast.walk(ast.parse(Path(django_texts.__file__).read_text())) if isinstance(node, ast.Call)
    ]
    marked = {ast.literal_eval(call.args[0]) for call in calls}
    assert marked | {entry.msgid for entry in CATALOGUES["djangojs"]} <= known


STYLE = {
    "half-width tilde in a range": r"\d\s?~\s?\d",
    "half-width parenthesis beside Japanese": rf"{JAPANESE}\s?\(|\([^()]*{JAPANESE}|\)\s?{JAPANESE}",
    "full-width colon": "：",
    "English quotation marks": "[“”]",
    "blank beside Japanese punctuation": r" [、。」）]|[、。「（] ",
    "blank before a percent sign": r"\d %",
    "no blank between Japanese and Latin": rf"{JAPANESE}[A-Za-z0-9]|[A-Za-z0-9]{JAPANESE}",
    "other word for キュー待ち": "待ち行列|待機列|待機中",
    "other word for リトライ": "再試行(?!して)",
    "other word for エクスポート": "書き出",
    "other word for 強制終了": "打ち切",
    "other word for タイムゾーン": "(?<!曜日と)時間帯",
    "other spelling": "ディレクトリー|メモリー|カテゴリー|サーバ(?!ー)|ユーザ(?!ー)",
    "spelling without the long vowel": "ブラウザ(?!ー)|パラメータ(?!ー)|ルータ(?!ー)",
    "other word for スループット": "毎秒トークン|トークン/秒",
    "other word for チャンク": "断片",
    "other word for クライアント切断": "離れた|途切れ",
    "other word for 拒否": "断った|断り",
    "other word for 正規モデル名": "正式名",
    "other word for メトリクス": "数値(?!で)",
    "other word for 処理中": "実行中の(?!エクス)",
    "other word for アイドルタイムアウト": "無通信",
    "other word for ロール": "役割",
    "other word for ターミナル": "端末",
    "other word for しきい値": "閾値",
    "other word for 日別・日次": "日ごとの(?!成功した|稼働)",
    "a program as a person": "知って|知りま|知らせ|教え|忘れ(?!た場合)|話す",
    "plain instead of polite": "する$",
}


@pytest.mark.parametrize("rule", STYLE)
def test_japanese_style(rule: str) -> None:
    pattern = re.compile(STYLE[rule])
    assert [text for entry in CATALOGUE if pattern.search(text := bare(entry))] == []


def test_japanese_sentences_end_with_a_full_stop_and_labels_without() -> None:
    texts = [bare(entry) for entry in CATALOGUE]
    assert {text for text in texts if SENTENCE_END.search(text)} == HEADINGS
    labels = [text for text in texts if text.endswith("。")]
    assert [text for text in labels if not re.search(r"(?:す|た|ん|い|）)。$", text)] == []


def test_no_full_stop_after_a_placeholder_that_ends_a_text() -> None:
    """The placeholder may stand for foreign text."""
    assert [entry.msgid for entry in CATALOGUE if re.search(r"[:：] ?%\(\w+\)s。$", japanese(entry))] == []


def test_texts_that_differ_in_their_first_letter_alone_have_one_translation() -> None:
    translations: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for entry in CATALOGUE:
        translations[entry.msgctxt, entry.msgid[:1].lower() + entry.msgid[1:]].add(japanese(entry))
    assert {text: words for text, words in translations.items() if len(words) > 1} == {}
