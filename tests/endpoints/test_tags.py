from endpoints import tags


def test_tags_are_tidied_and_kept_once() -> None:
    assert tags.normalise(["  rack  3 ", "Tokyo", "", "tokyo", "rack 3"]) == ["rack 3", "Tokyo"]


def test_a_field_separates_them_by_commas_of_either_script() -> None:
    assert tags.parse("rack 3, 東京、大阪，Osaka,,") == ["rack 3", "東京", "大阪", "Osaka"]
