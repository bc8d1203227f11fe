import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from laboratory.world.scene import (
    COLORS,
    GLYPHS,
    IMAGE_SIZE,
    SPLITS,
    glyph_mask,
    render,
    render_background,
    sample_scene,
)


SEEDS = st.integers(min_value=0, max_value=2_000_000_000)


def changed_pixels(scene):
    """Where the image differs from its background."""
    image, background = np.asarray(render(scene), int), np.asarray(render_background(scene.seed), int)
    return np.abs(image - background).max(-1) > 0


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_boxes_are_tight_around_what_was_drawn(seed):
    scene = sample_scene(seed)
    changed = changed_pixels(scene)
    outside = changed.copy()
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        inside = changed[y1:y2, x1:x2]
        assert inside.any(0)[[0, -1]].all()
        assert inside.any(1)[[0, -1]].all()
        assert inside.mean() > 0.1
        outside[y1:y2, x1:x2] = False
    assert not outside.any()


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_objects_are_in_the_image_apart_and_told_apart_by_name(seed):
    scene = sample_scene(seed)
    assert 1 <= len(scene.objects) <= 4
    assert len({item.name for item in scene.objects}) == len(scene.objects)
    assert [item.center for item in scene.objects] == sorted(item.center for item in scene.objects)
    covered = np.zeros((IMAGE_SIZE, IMAGE_SIZE), int)
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= IMAGE_SIZE
        assert 0 <= y1 < y2 <= IMAGE_SIZE
        covered[y1:y2, x1:x2] += 1
        assert item.normalized_box == (x1 / 96, y1 / 96, x2 / 96, y2 / 96)
    assert covered.max() == 1


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_seed_always_gives_the_same_image(seed):
    assert sample_scene(seed) == sample_scene(seed)
    assert render(sample_scene(seed)).tobytes() == render(sample_scene(seed)).tobytes()


def test_pixels_of_a_known_seed():
    # Whoever changes how scenes are drawn makes every figure about them void: this says so.
    names = [item.name for item in sample_scene(5).objects]
    assert names == ["green star", "orange telephone", "orange sun", "green castle"]
    assert [item.box for item in sample_scene(5).objects][0] == (9, 3, 37, 29)


def test_the_middle_of_an_object_has_its_color():
    hearts = 0
    for seed in range(300):
        scene = sample_scene(seed)
        image = render(scene)
        for item in scene.objects:
            if item.glyph == "heart":
                assert image.getpixel(tuple(int(side) for side in item.center)) == COLORS[item.color]
                hearts += 1
    assert hearts > 20


def test_crowded_scenes_hold_more_objects():
    assert max(len(sample_scene(seed, 8).objects) for seed in range(20)) == 8


def test_all_kinds_colors_and_counts_occur():
    scenes = [sample_scene(seed) for seed in range(600)]
    assert {item.glyph for scene in scenes for item in scene.objects} == set(GLYPHS)
    assert {item.color for scene in scenes for item in scene.objects} == set(COLORS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}


def test_splits_share_no_seed():
    ranges = sorted(SPLITS.values(), key=lambda seeds: seeds.start)
    assert set(SPLITS) == {"train", "validation", "test"}
    assert all(before.stop <= after.start for before, after in zip(ranges, ranges[1:]))


@pytest.mark.parametrize("glyph", GLYPHS)
def test_the_font_draws_each_kind(glyph):
    mask = np.asarray(glyph_mask(glyph, 32))
    assert 30 <= max(mask.shape) <= 32
    missing = np.asarray(glyph_mask("star", 32))
    assert glyph == "star" or mask.shape != missing.shape or (mask != missing).any()


def test_unknown_glyph_is_refused():
    with pytest.raises(ValueError, match="glyph must be one of star"):
        glyph_mask("dragon", 32)


def test_render_gives_rgb_of_the_world_size():
    image = render(sample_scene(1))
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    assert image.size == (96, 96)
