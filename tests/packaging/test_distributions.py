"""The wheel and the source distribution: what is in them, and that the wheel is enough, installed without any extra."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import lion_multimodal
from tests.packaging.use_core import EXTRAS


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("configuration_lion", "lion_multimodal", "modeling_lion", "processing_lion", "trainers")
NAME = f"lion_multimodal-{lion_multimodal.__version__}"
ABOUT = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "model_card.md", "pyproject.toml"}
"""What the source distribution holds beside the packages."""
BY_TOOLS = {"PKG-INFO", "setup.cfg"} | {
    f"lion_multimodal.egg-info/{name}"
    for name in (
        "PKG-INFO",
        "SOURCES.txt",
        "dependency_links.txt",
        "entry_points.txt",
        "requires.txt",
        "top_level.txt",
    )
}
DIST_INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the source distribution, and with the wheel that is built from that alone."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert {file.name for file in output.iterdir()} == {f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl"}
    return output


@pytest.fixture(scope="module")
def wheel(distributions) -> Path:
    return distributions / f"{NAME}-py3-none-any.whl"


def of_packages() -> set[str]:
    """Every file of the installed packages in the repository, and nothing but these."""
    return {name for name in tracked() if PurePosixPath(name).parts[0] in PACKAGES}


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        top_level = archive.read(f"{NAME}.dist-info/top_level.txt").decode().split()
    assert names == of_packages() | {f"{NAME}.dist-info/{name}" for name in DIST_INFO}
    assert sorted(top_level) == sorted(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not any(re.search(r"\.(bin|ckpt|log|pkl|pt|pth|pyc)$", name) for name in names)


def test_the_source_distribution_holds_the_packages_and_what_explains_them(distributions):
    with tarfile.open(distributions / f"{NAME}.tar.gz") as archive:
        names = {member.name.removeprefix(f"{NAME}/") for member in archive.getmembers() if member.isfile()}
    assert names == of_packages() | ABOUT | BY_TOOLS


def test_the_metadata_tell_what_the_package_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("lion-multimodal", lion_multimodal.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Author"]
    urls = dict(value.split(", ") for value in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= set(urls)
    classifiers = metadata.get_all("Classifier")
    assert "Programming Language :: Python :: 3.11" in classifiers
    assert "Typing :: Typed" in classifiers
    core = [value for value in metadata.get_all("Requires-Dist") if "extra ==" not in value]
    assert {re.match(r"[\w-]+", value)[0].lower() for value in core} == {
        "huggingface-hub",
        "numpy",
        "pillow",
        "safetensors",
        "torch",
        "transformers",
    }
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_images_of_the_readme_are_seen_from_everywhere():
    """PyPI shows the README without the files beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    images = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)|<img[^>]*\bsrc=\"([^\"]+)\"", text)
    assert images
    home = PROJECT["urls"]["Homepage"] + "/raw/main/"
    for address in (first or second for first, second in images):
        assert address.startswith(home), address
        assert (ROOT / address.removeprefix(home)).is_file(), address


def core_environments() -> list:
    """
    Interpreters of environments that hold what the package needs, and no extra: `LION_CORE_PYTHONS`, separated by
    colons. Without them it is this one, its extras hidden.
    """
    named = [path for path in os.environ.get("LION_CORE_PYTHONS", "").split(os.pathsep) if path]
    return [pytest.param(path, id=Path(path).parents[1].name) for path in named] or [None]


@pytest.mark.parametrize("python", core_environments())
def test_the_wheel_alone_is_enough(python, wheel, tmp_path):
    """Installed beside torch and transformers, outside the repository, it runs what the README promises."""
    packages = subprocess.run(
        [python or sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = tmp_path / "environment"
    subprocess.run([python or sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "core.pth").write_text(packages + "\n", encoding="utf-8")
    # Without an index: the requirements of the wheel are met by what is there, or pip says which is not.
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--force-reinstall", "--no-deps", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    assert "lion-multimodal" not in done.stdout, done.stdout

    folder = tmp_path / "somewhere"
    for name in ("evaluation", "datasets", "publishing"):  # a user's own folders, which must not matter
        (folder / name).mkdir(parents=True)
    (folder / "evaluation" / "__init__.py").write_text("raise AssertionError('the folder of the user')\n")
    image = shutil.copyfile(ROOT / "docs" / "images" / "scene.png", folder / "scene.png")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "LION_"))}
    variables |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    script = shutil.copyfile(Path(__file__).with_name("use_core.py"), folder / "use_core.py")
    hidden = () if python else EXTRAS
    for command, shown in (
        ([environment / "bin" / "lion", "demo", "--output", "demo.png"], "drawn"),
        ([environment / "bin" / "python", script, image, *hidden], "used"),
    ):
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=folder, env=variables, check=False
        )
        assert done.returncode == 0, done.stderr[-6000:]
        assert shown in done.stdout
