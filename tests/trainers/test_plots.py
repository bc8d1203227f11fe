import PIL.Image
import pytest
import torch

from tests.trainers.conftest import tiny_model
from trainers.plots import plot_losses, plot_routers, router_weights


def test_router_weights_by_layer_adapter_and_task():
    model = tiny_model(["region_level", "image_level"])
    weights = router_weights(model)
    assert list(weights) == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    assert all(torch.equal(w, torch.eye(2)) for w in weights.values())
    router = model.language_model.encoder.block[1].layer[-1].adapter.router_ratios
    with torch.no_grad():
        router[1, 0] = torch.linspace(-1, 1, 16)  # the image-level adapter, for region-level rows
    assert router_weights(model)["encoder.1"][1, 0].item() == pytest.approx(
        torch.linspace(-1, 1, 16).abs().mean().item()
    )
    assert router_weights(tiny_model(["image_level"])) == {}


def test_images_are_drawn(tmp_path):
    history = [
        {"loss": 3.0, "step": 1},
        {"eval_val_loss": 2.5, "eval_val_exact_match": 0.1, "step": 1},
        {"loss": 2.0, "step": 2},
    ]
    losses = plot_losses(history, tmp_path / "a" / "loss.png")
    routers = plot_routers(router_weights(tiny_model(["region_level", "image_level"])), tmp_path / "routers.png")
    for path in (losses, routers):
        with PIL.Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert plot_losses([{"train_runtime": 1, "step": 1}], tmp_path / "none.png") is None
    assert plot_routers({}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
