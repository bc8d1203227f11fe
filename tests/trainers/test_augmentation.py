import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_lion import format_box, parse_boxes
from trainers.augmentation import Augmentation, find_box_problem, move_boxes, read_boxes, speaks_of_sides


WIDTH, HEIGHT = 80, 60

# Edges of boxes on pixel borders, at least 4 pixels apart.
boxes = st.tuples(st.integers(0, 18), st.integers(0, 13), st.integers(1, 19), st.integers(1, 14)).filter(
    lambda b: b[0] < b[2] and b[1] < b[3]
)


def marked_image(box) -> PIL.Image.Image:
    """Black, with the box white."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    x1, y1, x2, y2 = (4 * edge for edge in box)
    pixels[y1:y2, x1:x2] = 255
    return PIL.Image.fromarray(pixels)


def found_box(image: PIL.Image.Image) -> tuple[float, ...]:
    rows, columns = np.nonzero(np.asarray(image)[:, :, 0])
    width, height = image.size
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@settings(max_examples=150, deadline=None)
@given(box=boxes, seed=st.integers(0, 2**32), flip=st.sampled_from([0.0, 0.5, 1.0]))
def test_boxes_in_prompt_and_answer_stay_on_their_objects(box, seed, flip):
    x1, y1, x2, y2 = (4 * edge for edge in box)
    text = format_box((x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT))
    augment = Augmentation((0.3, 1.0), flip)
    image, (prompt, answer) = augment(
        marked_image(box), [f"what is at {text}?", f"Answer: {text}"], np.random.default_rng(seed)
    )
    np.testing.assert_allclose(parse_boxes(answer)[0], found_box(image), atol=0.002)
    assert parse_boxes(prompt) == parse_boxes(answer)
    assert prompt.startswith("what is at [")


def test_crop_and_flip_do_happen():
    image = PIL.Image.fromarray(
        np.arange(WIDTH * HEIGHT * 3, dtype=np.uint32).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    )
    results = [Augmentation()(image, ["a cat"], np.random.default_rng(seed))[0] for seed in range(40)]
    shares = [r.size[0] * r.size[1] / (WIDTH * HEIGHT) for r in results]
    assert 0.45 < min(shares) < 0.6 < max(shares) <= 1
    flipped = Augmentation((1.0, 1.0), 1.0)(image, ["a cat"], np.random.default_rng(0))[0]
    assert np.array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize(
    "text", ["the cat on the left", "Is it RIGHT of the dog?", "the leftmost one", "turn clockwise"]
)
def test_texts_about_sides_are_never_flipped(text):
    assert speaks_of_sides(text)
    image = marked_image((0, 0, 3, 3))
    for seed in range(20):
        augmented, never_flipped = (
            Augmentation((0.5, 1.0), flip)(image, ["what is it?", text], np.random.default_rng(seed))[0]
            for flip in (1.0, 0.0)
        )
        assert np.array_equal(np.asarray(augmented), np.asarray(never_flipped))


def test_crop_that_would_cut_a_box_is_not_made():
    full = "[0.000,0.000,1.000,1.000]"
    image, texts = Augmentation((0.5, 0.6), 0.0)(marked_image((0, 0, 20, 15)), [full], np.random.default_rng(0))
    assert image.size == (WIDTH, HEIGHT)
    assert texts == [full]


def test_boxes_in_another_form_leave_the_row_as_it_is():
    image = marked_image((0, 0, 4, 4))
    for seed in range(10):
        augmented, texts = Augmentation((0.3, 0.5), 1.0)(image, ["(0.0,0.0,0.2,0.2)"], np.random.default_rng(seed))
        assert augmented.size == image.size
        assert texts == ["(0.0,0.0,0.2,0.2)"]


def test_several_boxes_in_one_pair_of_brackets():
    text = "cats [0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8] and 3 dogs [1, 2]"
    assert read_boxes(text) == [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]
    moved = move_boxes(text, lambda b: (1 - b[2], b[1], 1 - b[0], b[3]))
    assert moved == "cats [0.700,0.200,0.900,0.400;0.300,0.600,0.500,0.800] and 3 dogs [1, 2]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Answer: [0.1,0.2,0.3,0.4]", None),
        ("no box at all", None),
        ("[0.1,0.2,1.3,0.4]", "outside"),
        ("[-0.1,0.2,0.3,0.4]", "outside"),
        ("[12,30,40,50]", "outside"),
        ("[0.3,0.2,0.1,0.4]", "no area"),
        ("[0.3,0.2,0.3,0.4]", "no area"),
    ],
)
def test_bad_boxes_are_named(text, problem):
    found = find_box_problem(text)
    assert (found is None) if problem is None else (problem in found)
