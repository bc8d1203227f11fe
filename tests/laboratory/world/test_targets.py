import numpy as np
import pytest
import torch

from laboratory.world.scene import COLORS, GLYPHS, sample_scene
from laboratory.world.targets import (
    NOTHING,
    VisualVocabulary,
    ordinal_embeddings,
    patch_targets,
    random_rotation,
    slot_targets,
)
from laboratory.world.tokenizer import write_t5_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_t5_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("patch_size", [12, 16])
def test_patches_show_the_object_that_lies_there(patch_size):
    side = 96 // patch_size
    for seed in range(40):
        scene = sample_scene(seed)
        targets = patch_targets(scene, patch_size)
        assert set(targets.rank) - {NOTHING} == set(range(1, len(scene.objects) + 1))
        for place, rank in enumerate(targets.rank):
            x, y = place % side * patch_size, place // side * patch_size
            if rank == NOTHING:
                assert targets.glyph[place] == targets.color[place] == NOTHING
                assert not targets.box[place].any()
                continue
            item = scene.objects[rank - 1]
            assert (list(GLYPHS)[targets.glyph[place] - 1], list(COLORS)[targets.color[place] - 1]) == (
                item.glyph,
                item.color,
            )
            x1, y1, x2, y2 = targets.box[place]
            assert (x1, y1, x2, y2) == item.box
            assert x1 < x + patch_size
            assert x < x2
            assert y1 < y + patch_size
            assert y < y2


def test_slots_hold_the_objects_from_left_to_right():
    for seed in range(20):
        scene = sample_scene(seed)
        targets = slot_targets(scene, 8)
        boxes = [tuple(box) for box, rank in zip(targets.box, targets.rank) if rank != NOTHING]
        assert boxes == [item.box for item in scene.objects]
        assert len(targets.glyph) == 8
        assert (targets.glyph[len(boxes) :] == NOTHING).all()


def test_symbols_can_be_read_back(tokenizer):
    torch.manual_seed(0)
    vocabulary = VisualVocabulary(torch.randn(len(tokenizer), 128), tokenizer, num_slots=8)
    glyph = torch.arange(1, len(GLYPHS) + 1)[None]
    color = torch.arange(len(GLYPHS))[None] % len(COLORS) + 1
    box = torch.randint(0, 97, (1, len(GLYPHS), 4))
    tokens = vocabulary.objects(glyph, color, box)
    glyph_scores, color_scores = vocabulary.read(tokens)
    assert (glyph_scores.argmax(-1) == glyph).all()
    assert (color_scores[..., 1:].argmax(-1) + 1 == color).float().mean() > 0.9
    assert vocabulary.patches(glyph, color, box).shape == (1, len(GLYPHS) + 1, 128)


def test_nothing_has_no_place(tokenizer):
    vocabulary = VisualVocabulary(torch.randn(len(tokenizer), 32), tokenizer, num_slots=2)
    zeros, box = torch.zeros(1, 1, dtype=torch.long), torch.tensor([[[1, 2, 3, 4]]])
    assert torch.equal(vocabulary.objects(zeros, zeros, box), vocabulary.objects(zeros, zeros, 0 * box))


def test_close_numbers_resemble_each_other():
    torch.manual_seed(0)
    numbers = torch.nn.functional.normalize(ordinal_embeddings(97, 512), dim=-1)
    likeness = numbers @ numbers.T
    assert likeness.diagonal(1).mean() > 0.85 > 0.75 > likeness.diagonal(6).mean() > 0.5
    assert 0.3 > likeness.diagonal(40).mean() > 0.1 > likeness.diagonal(96).mean()


def test_numbers_lie_along_a_line():
    torch.manual_seed(0)
    numbers = ordinal_embeddings(97, 128)
    centred = numbers - numbers.mean(0)
    positions = torch.linspace(0, 1, 97)
    along = centred @ torch.linalg.svd(centred, full_matrices=False)[2][0]
    assert torch.corrcoef(torch.stack([along, positions]))[0, 1].abs() > 0.9


def test_rotations_keep_lengths():
    turn = random_rotation(16)
    assert np.allclose(turn @ turn.T, np.eye(16), atol=1e-5)
