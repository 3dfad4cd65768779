from endpoints import tags


def test_tags_are_normalised_and_unique() -> None:
    assert tags.normalise(["  rack  3 ", "Tokyo", "", "tokyo", "rack 3"]) == ["rack 3", "Tokyo"]


def test_tags_are_separated_by_western_or_japanese_commas() -> None:
    assert tags.parse("rack 3, 東京、大阪，Osaka,,") == ["rack 3", "東京", "大阪", "Osaka"]
