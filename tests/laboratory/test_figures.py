"""Figures of the documentation that are drawn from what the shipped nano answers."""

from PIL import Image

from laboratory.figures import tag_influence


def test_what_the_image_of_tags_shows_is_what_the_nano_answers(tmp_path, monkeypatch):
    asked = []
    variants = tag_influence.variants
    monkeypatch.setattr(tag_influence, "variants", lambda *args: asked.extend(variants(*args)) or asked)
    tag_influence.main([str(tmp_path / "tags.png")])
    with Image.open(tmp_path / "tags.png") as image:
        assert image.width > 1000
    # As docs/how_it_works.md tells: tags that are left out, and most wrong ones, change little; one does.
    assert [variant.name for variant in asked if not variant.found] == ["and “cup” (wrong)"]
    assert asked[0].log_likelihood - min(variant.log_likelihood for variant in asked) > 2
