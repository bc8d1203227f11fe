"""Images from every kind of source, and the numbers they become."""

import base64
import contextlib
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_lion import LionImageProcessor, image_loading_lion, image_size, load_image, load_images


@pytest.fixture
def picture():
    """A colourful image that is wider than high."""
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(values)


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def same(image, other):
    assert image.mode == "RGB"
    return np.array_equal(np.asarray(image), np.asarray(other))


# --- Sources --------------------------------------------------------------------------------------------------------


def test_files_bytes_and_data_urls(picture, tmp_path):
    path = tmp_path / "a picture.png"
    path.write_bytes(png(picture))
    assert same(load_image(path), picture)
    assert same(load_image(str(path)), picture)
    assert same(load_image(path.read_bytes()), picture)
    assert same(load_image("data:image/png;base64," + base64.b64encode(png(picture)).decode()), picture)


def test_http_url(picture):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/picture.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(png(picture))

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"http://127.0.0.1:{server.server_port}"
        assert same(load_image(f"{host}/picture.png", allow_private_addresses=True), picture)
        assert same(load_image(f"HTTP{host[4:]}/picture.png", allow_private_addresses=True), picture)
        with pytest.raises(OSError, match=r"could not fetch .*/other.png': .*404"):
            load_image(f"{host}/other.png", allow_private_addresses=True)
        with pytest.raises(OSError, match=r"images\[1\]: could not fetch .*not a public address"):
            load_images([picture, f"{host}/picture.png"])
    finally:
        server.shutdown()
        server.server_close()


def test_whatever_libraries_hand_over(picture, tmp_path):
    content = png(picture)
    path = tmp_path / "ä #1?.png"
    path.write_bytes(content)
    encoded = base64.b64encode(content).decode()
    for source in (
        io.BytesIO(content),
        bytearray(content),
        memoryview(content),
        encoded,
        "\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76)),
        "DATA:image/png;BASE64," + encoded,
        {"bytes": content, "path": None},
        {"bytes": content, "path": "no/such/file.png"},
        {"bytes": None, "path": str(path)},
        {"path": path},
        path.as_uri(),
        "FILE://localhost" + path.as_uri()[len("file://") :],
        f"file:{path}",
    ):
        assert same(load_image(source), picture), source
        assert same(load_images(source)[0], picture), source
        assert image_size(source) == picture.size
    with path.open("rb") as file:
        file.seek(10)
        assert same(load_image(file), picture)
        assert same(load_image(file), picture)  # and it stays open

    with path.open() as text, pytest.raises(TypeError, match="mode 'rb'"):
        load_image(text)


def test_a_column_of_a_data_set_is_a_batch(picture):
    datasets = pytest.importorskip("datasets")
    content = png(picture)
    table = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None}] * 3})
    table = table.cast_column("image", datasets.Image(decode=False))
    for images in (
        table["image"],
        table.cast_column("image", datasets.Image())["image"],
        (content for _ in range(3)),
        np.array([content, content, content], dtype=object),
    ):
        loaded = load_images(images)
        assert len(loaded) == 3
        assert all(same(image, picture) for image in loaded)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_arrays(picture, dtype, channels_first, as_tensor):
    values = np.asarray(picture)
    if np.issubdtype(dtype, np.floating):
        values = values / 255
    elif dtype is np.uint16:
        values = values.astype(np.uint16) * 257
    values = values.astype(dtype)
    if channels_first:
        values = values.transpose(2, 0, 1)
    if as_tensor:
        values = torch.from_numpy(np.ascontiguousarray(values))
    assert same(load_image(values), picture)


def test_tensors_of_half_precision_and_with_gradients():
    white = PIL.Image.new("RGB", (5, 4), "white")
    assert same(load_image(torch.ones(3, 4, 5, dtype=torch.bfloat16)), white)
    assert same(load_image(torch.ones(3, 4, 5, requires_grad=True)), white)
    assert same(load_image(np.ones((4, 5), dtype=bool)), white)


def test_array_with_two_possible_channel_axes():
    values = np.zeros((3, 7, 3), np.uint8)
    assert load_image(values).size == (3, 7)  # channels first, as transformers takes it
    assert load_image(values, input_data_format="channels_last").size == (7, 3)
    assert load_image(np.zeros((4, 7, 3), np.uint8)).size == (7, 4)  # not four channels of width 3
    assert load_image(np.zeros((4, 7, 9), np.uint8)).size == (9, 7)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBA", "RGBa", "La", "RGBX"])
def test_every_mode_becomes_rgb(picture, mode):
    source = picture.convert("RGBA").convert("RGBa") if mode == "RGBa" else picture
    source = picture.convert("LA").convert("La") if mode == "La" else source.convert(mode)
    image = load_image(source)
    assert image.mode == "RGB"
    assert image.size == picture.size


def test_transparent_images_are_put_on_white(tmp_path):
    # fully transparent red, as many editors leave it below
    image = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    loaded = load_image(image)
    assert loaded.getpixel((3, 3)) == (255, 255, 255)
    assert loaded.getpixel((0, 0)) == (0, 0, 255)
    assert loaded.getpixel((1, 0)) == (127, 127, 127)
    assert same(load_image(np.asarray(image)), loaded)

    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    loaded = load_image(png(palette, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_deep_greyscale_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    expected = [0, 1, 128, 255]
    file = png(PIL.Image.fromarray(values))
    assert [load_image(file).getpixel((x, 0))[0] for x in range(4)] == expected
    assert [load_image(PIL.Image.fromarray(values)).getpixel((x, 0))[0] for x in range(4)] == expected
    thirty_two = PIL.Image.fromarray(values.astype(np.int32))
    assert thirty_two.mode == "I"
    assert [load_image(thirty_two).getpixel((x, 0))[0] for x in range(4)] == expected
    floats = PIL.Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert [load_image(floats).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_exif_rotation_is_applied(picture, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right for display
    path = tmp_path / "rotated.png"
    picture.save(path, exif=exif)
    upright = picture.transpose(PIL.Image.Transpose.ROTATE_270)
    assert same(load_image(path), upright)
    with PIL.Image.open(path) as opened:
        assert same(load_image(opened), upright)
    assert same(load_image(load_image(path)), upright)  # once only


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_that_of_pillow(picture, kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(buffer)).convert("RGB")
    assert same(load_image(buffer), expected)
    assert same(load_image(load_image(buffer)), expected)
    assert image_size(buffer) == expected.size


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_unreadable_exif_hides_no_image(picture, kind, exif):
    buffer = io.BytesIO()
    picture.save(buffer, kind, exif=exif)
    expected = PIL.Image.open(buffer).convert("RGB")
    assert same(load_image(buffer), expected)
    assert same(load_image(PIL.Image.open(buffer)), expected)
    assert image_size(buffer) == picture.size


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own
@settings(max_examples=100, deadline=None)
@given(
    exif=st.binary(max_size=60),
    head=st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0"]),
)
def test_no_exif_hides_an_image(exif, head):
    image = PIL.Image.new("RGB", (9, 6), "green")
    image.info["exif"] = head + exif
    assert sorted(load_image(image).size) == [6, 9]


def test_an_image_is_converted_in_strips_where_it_is_large(picture, monkeypatch):
    sources = [picture.convert(mode) for mode in ("RGBA", "LA", "PA")]
    palette = picture.convert("P")
    palette.info["transparency"] = 3
    values = np.random.default_rng(1).integers(0, 65536, (6, 9))
    sources += [palette, PIL.Image.fromarray(values.astype(np.uint16)), PIL.Image.fromarray(values.astype(np.int32))]
    sources += [PIL.Image.fromarray((values / 65535).astype(np.float32))]
    whole = [load_image(source) for source in sources]
    monkeypatch.setattr(image_loading_lion, "_STRIP", 18)  # two rows
    for source, expected in zip(sources, whole, strict=True):
        assert same(load_image(source), expected), source.mode


def test_animation_gives_its_first_frame(tmp_path):
    frames = [PIL.Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


# --- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "cannot load an image from int; expected a PIL image, a file path"),
        (None, TypeError, "NoneType"),
        ({"path": "/no/such"}, FileNotFoundError, "'/no/such'"),
        ({"image": "x"}, TypeError, "must hold an image as 'bytes' or 'path', this one has 'image'"),
        ({"bytes": None, "path": None}, ValueError, "both are None"),
        ({"bytes": 3}, TypeError, "'bytes' of a dict that holds an image cannot be of type int"),
        ({3, 4}, TypeError, "cannot load an image from set"),
        (PIL.Image.new("RGB", (0, 3)), ValueError, "the PIL image is empty"),
        (PIL.Image.fromarray(np.full((2, 2), np.inf, np.float32)), ValueError, "not finite"),
        ("s3://bucket/a.png", FileNotFoundError, "'s3://bucket/a.png'"),
        ("file://other.host/a.png", ValueError, "a file of another machine"),
        ("file:///no/such", FileNotFoundError, "'/no/such'"),
        ("data:image/png", ValueError, "has no comma"),
        ("data:image/png;base64,AAA", ValueError, "not a valid data: URL"),
        ("http://[::1", ValueError, "could not fetch 'http://.*not a valid URL"),
        ("", FileNotFoundError, "no image file ''"),
        ("dog", FileNotFoundError, "no image file 'dog'"),
        ("a\0b", FileNotFoundError, "no image file"),
        ("\ud83d.png", FileNotFoundError, "no image file"),
        ("~nosuchuser/a.png", FileNotFoundError, "no image file"),
        ("QUJD" * 5000, ValueError, r"the base64 string 'QUJDQUJD.*\.\.\.' holds no readable image"),
        ("a long text, " * 5000, FileNotFoundError, r"'a long text.*\.\.\.'; expected"),
        ("/no/such/file.png", FileNotFoundError, "'/no/such/file.png'"),
        (b"not a picture", ValueError, "13 bytes holds no readable image"),
        ("data:image/png;base64,AAAA", ValueError, "no readable image"),
        (np.zeros((5, 5, 2)), ValueError, r"shape \(5, 5, 2\)"),
        (np.zeros((2, 3, 4, 4, 3)), ValueError, "shape"),
        (np.zeros((0, 4, 3)), ValueError, "shape"),
        (np.full((4, 4, 3), 200.0), ValueError, r"float pixel values must lie in \[0, 1\].*200"),
        (np.full((4, 4, 3), np.nan), ValueError, "float pixel values"),
        (np.full((4, 4, 3), 300), ValueError, r"integer pixel values must lie in \[0, 255\]"),
        (np.zeros((4, 4, 3), complex), ValueError, "complex"),
    ],
)
def test_errors_say_what_was_expected_and_which_image(source, error, message):
    with pytest.raises(error, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(error, match=r"^images\[1\]: "):
        LionImageProcessor()([np.zeros((4, 4, 3), np.uint8), source])


def test_damaged_files_are_reported_by_name(picture, tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(png(picture.resize((300, 300)))[:2000])
    with pytest.raises(ValueError, match=r"half\.png holds no readable image"):
        load_image(path)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.jpg holds no readable image"):
        load_image(tmp_path / "text.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, on damaged TIFF
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    damage=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 400),
)
def test_damaged_bytes_give_a_image_or_a_value_error(kind, damage, length):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (9, 6), "green").save(buffer, kind)
    content = bytearray(buffer.getvalue()[:length])
    for position, value in damage:
        if position < len(content):
            content[position] = value
    with contextlib.suppress(ValueError):  # any other error fails the test
        assert load_image(bytes(content)).mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(), st.from_regex(r"(data|file|DATA):[^\n]*"), st.from_regex(r"[A-Za-z0-9+/=\s]*", fullmatch=True))
)
def test_any_string_is_an_error_of_a_line(text):
    with pytest.raises((ValueError, OSError)) as caught:
        load_image(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_large_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    PIL.Image.new("1", (13300, 13300)).save(path)
    content = path.read_bytes()
    assert len(content) < 50_000
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", lambda *args: pytest.fail("decoded"))
    for source in (path, content, PIL.Image.open(path)):
        with pytest.raises(ValueError, match=r"13300x13300 pixels, more than `max_pixels` \(134217728\)"):
            load_image(source)
    with pytest.raises(ValueError, match="max_pixels"):
        image_size(path)
    monkeypatch.undo()
    small = png(PIL.Image.new("RGB", (10, 10)))
    assert load_image(small, max_pixels=100).size == (10, 10)
    assert load_image(small, max_pixels=None).size == (10, 10)
    with pytest.raises(ValueError, match="10x10 pixels"):
        load_image(small, max_pixels=99)


def test_a_pil_image_that_cannot_be_decoded_is_a_value_error(picture, tmp_path):
    content = png(picture.resize((300, 300)))[:2000]
    with pytest.raises(ValueError, match="the PIL image holds no readable image"):
        load_image(PIL.Image.open(io.BytesIO(content)))
    with pytest.raises(ValueError, match=r"images\[0\]: the PIL image holds no readable image"):
        LionImageProcessor()(PIL.Image.open(io.BytesIO(content)))


def test_the_users_image_stays_as_it_is(picture):
    picture.info["comment"] = "mine"
    before = picture.tobytes()
    loaded = load_image(picture)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert (picture.tobytes(), picture.info) == (before, {"comment": "mine"})


def test_several_images_for_one_text_are_refused(picture):
    with pytest.raises(ValueError, match=r"images\[0\] holds 2 images"):
        LionImageProcessor()([[picture, picture]])


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_pixel_values_are_those_of_pillow_and_numpy(picture):
    processor = LionImageProcessor()
    values = processor(picture, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 224, 224)
    assert values.dtype == torch.float32
    resized = np.asarray(picture.resize((224, 224), PIL.Image.Resampling.BICUBIC)).astype(np.float64) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(values[0].permute(1, 2, 0).numpy(), (resized - mean) / std, atol=2e-6)


def test_tagging_pixel_values(picture):
    processor = LionImageProcessor.for_tagging()
    values = processor(picture, return_tensors="np").pixel_values
    assert values.shape == (1, 3, 384, 384)
    resized = np.asarray(picture.resize((384, 384), PIL.Image.Resampling.BILINEAR)).astype(np.float64) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(values[0].transpose(1, 2, 0), expected, atol=2e-6)
    assert LionImageProcessor.for_tagging(size=96).size == {"height": 96, "width": 96}


def test_steps_can_be_left_out(picture):
    processor = LionImageProcessor(size={"height": 8, "width": 4}, do_normalize=False)
    assert processor(picture, return_tensors="np").pixel_values.shape == (1, 3, 8, 4)
    raw = processor(picture, do_resize=False, do_rescale=False, return_tensors="np").pixel_values
    assert np.array_equal(raw[0].transpose(1, 2, 0), np.asarray(picture))
    assert processor(picture, size=5, return_tensors="np").pixel_values.shape == (1, 3, 5, 5)
    with pytest.raises(ValueError, match="different sizes"):
        processor([picture, picture.rotate(90, expand=True)], do_resize=False, return_tensors="np")


def test_batches(picture):
    processor = LionImageProcessor(size=8)
    batch = torch.zeros(4, 3, 6, 9)
    assert processor(batch, return_tensors="pt").pixel_values.shape == (4, 3, 8, 8)
    assert processor([[picture], [picture]], return_tensors="pt").pixel_values.shape == (2, 3, 8, 8)
    assert len(processor([picture, picture]).pixel_values) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": {"shortest_edge": 224}}, "'height' and 'width'"),
        ({"resample": 17}, "resample"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"size": 1.5}, "size must"),
        ({"size": "abc"}, "size must"),
        ({"size": True}, "size must"),
        ({"size": {"height": True, "width": 4}}, "size must"),
        ({"resample": "x"}, "resample"),
        ({"resample": []}, "resample"),
        ({"image_std": "abc"}, "image_std must hold one finite number"),
        ({"image_std": float("nan")}, "image_std"),
        ({"image_mean": [0.5, float("inf"), 0.5]}, "image_mean"),
        ({"image_mean": ["a", 0.5, 0.5]}, "image_mean"),
        ({"rescale_factor": "x"}, "rescale_factor must be a positive number"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"rescale_factor": True}, "rescale_factor"),
        ({"do_resize": "no"}, "do_resize must be True or False"),
        ({"do_normalize": 1}, "do_normalize must be True or False"),
        ({"do_convert_rgb": False}, "do_convert_rgb must be True"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std must be positive"),
    ],
)
def test_bad_settings_are_refused(setting, message, picture):
    with pytest.raises(ValueError, match=message):
        LionImageProcessor(**setting)
    with pytest.raises(ValueError, match=message):
        LionImageProcessor()(picture, **setting)


def test_standard_arguments_are_honoured_or_refused(picture):
    processor = LionImageProcessor(size=8)
    plain = processor(picture, return_tensors="pt").pixel_values
    assert torch.equal(processor(picture, return_tensors="pt", do_convert_rgb=True, device="cpu").pixel_values, plain)
    last = processor(picture, return_tensors="pt", data_format="channels_last").pixel_values
    assert torch.equal(last.permute(0, 3, 1, 2), plain)
    one = processor(picture, image_mean=0.5, image_std=0.25, return_tensors="pt").pixel_values
    assert torch.equal(
        one, processor(picture, image_mean=[0.5] * 3, image_std=[0.25] * 3, return_tensors="pt").pixel_values
    )
    assert LionImageProcessor(image_mean=0.5).image_mean == [0.5] * 3
    assert processor(picture, do_center_crop=False, do_pad=None, return_tensors="pt").pixel_values.equal(plain)
    assert processor([], return_tensors="pt").pixel_values.shape == (0, 3, 8, 8)
    for arguments, error, message in [
        ({"do_center_crop": True}, ValueError, "`do_center_crop` is not offered"),
        ({"do_convert_rgb": False}, ValueError, "do_convert_rgb"),
        ({"data_format": "x"}, ValueError, "data_format"),
        ({"do_resizes": True}, TypeError, "takes no argument 'do_resizes'"),
        ({"device": "cuda", "return_tensors": "np"}, ValueError, "needs return_tensors='pt'"),
    ]:
        with pytest.raises(error, match=message):
            processor(picture, **arguments)


def test_save_and_load(tmp_path, picture):
    processor = LionImageProcessor.for_tagging(size=32, do_rescale=False)
    processor.save_pretrained(tmp_path)
    loaded = LionImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert torch.equal(
        loaded(picture, return_tensors="pt").pixel_values, processor(picture, return_tensors="pt").pixel_values
    )
