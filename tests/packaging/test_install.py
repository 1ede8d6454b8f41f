"""Distributions hold what they should, ask for what they need, and live beside each other."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.packaging.environments import run

pytestmark = pytest.mark.packaging

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = {
    "heed": ["shared_attention", "shared_runtime", "domains"],
    "heed-core": ["shared_attention"],
    "heed-runtime": ["shared_runtime"],
    "heed-finance": ["domains/finance"],
    "heed-forecasting": ["domains/forecasting"],
    "heed-medical": ["domains/medical"],
}
PACKAGES = ["heed-core", "heed-runtime", "heed-finance", "heed-forecasting", "heed-medical"]

SECOND_DOMAIN = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "heed-second"
version = "0.1.0"
dependencies = ["heed-runtime==0.1.0"]

[project.entry-points."heed.domains"]
second = "domains.second.cli:app"

[tool.hatch.build.targets.wheel]
packages = ["domains"]
""",
    "domains/second/__init__.py": "",
    "domains/second/cli.py": """\
from shared_runtime.cli import domain_app

app = domain_app("second", "domains.second", summary="A second domain.")
""",
}


def content(wheel: Path) -> set[str]:
    """Files of a wheel, its own metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def needs(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    return metadata.get_all("Requires-Dist") or []


def source_files(name: str) -> set[str]:
    """Files under the sources of a distribution that are not leftovers of running them."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for source in SOURCES[name]
        for path in (CHECKOUT / source).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_holds_its_source_and_nothing_else(built, name):
    assert content(built[name].wheel) == source_files(name)


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_is_the_same_through_an_sdist(built, name):
    assert content(built[name].wheel) == content(built[name].direct_wheel)


def test_the_packages_share_out_the_source_without_overlap(built):
    parts = [content(built[name].wheel) for name in PACKAGES]
    assert len(set.union(*parts)) == sum(len(part) for part in parts)
    assert set.union(*parts) <= content(built["heed"].wheel)


@pytest.mark.parametrize("name", SOURCES)
def test_an_sdist_holds_readme_licence_and_source(built, name):
    with tarfile.open(built[name].sdist) as archive:
        files = {member.split("/", 1)[1] for member in archive.getnames() if "/" in member}
    assert {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO"} | source_files(name) <= files


@pytest.mark.parametrize("name", SOURCES)
def test_what_goes_to_an_index_names_siblings_by_version(built, name):
    with tarfile.open(built[name].sdist) as archive:
        [info] = [member for member in archive.getnames() if member.endswith("/PKG-INFO")]
        extracted = archive.extractfile(info)
        assert extracted is not None
        assert "file:" not in extracted.read().decode()
    siblings = {need for need in needs(built[name].wheel) if need.startswith("heed-")}
    expected = {
        "heed": set(),
        "heed-core": set(),
        "heed-runtime": {"heed-core==0.1.0"},
        "heed-finance": {"heed-core==0.1.0", "heed-runtime==0.1.0"},
        "heed-forecasting": {"heed-core==0.1.0", "heed-runtime==0.1.0"},
        "heed-medical": {"heed-core==0.1.0", "heed-runtime==0.1.0"},
    }
    assert siblings == expected[name]


def test_a_wheel_built_from_the_checkout_names_siblings_by_path(built):
    siblings = {n for n in needs(built["heed-forecasting"].direct_wheel) if n.startswith("heed-")}
    folder = CHECKOUT / "packages"
    assert siblings == {
        f"heed-core @ {(folder / 'core').as_uri()}",
        f"heed-runtime @ {(folder / 'runtime').as_uri()}",
    }


def test_a_package_without_its_source_does_not_build(tmp_path):
    alone = tmp_path / "packages" / "core"
    shutil.copytree(CHECKOUT / "packages" / "core", alone)
    command = (sys.executable, "-m", "build", "--no-isolation", "--wheel", alone)
    output = run(*command, cwd=tmp_path, expect=1)
    assert f"{tmp_path / 'shared_attention'}: no source files" in output


def test_one_domain_alone_runs_anywhere(built, environment):
    env = environment(*PACKAGES)
    env.install(*[built[name].wheel for name in PACKAGES])
    where = env.python("import domains.forecasting as d, shared_attention; print(d.__file__)")
    assert where.startswith(str(env.bin.parent))
    env.pip("check")
    assert "forecasting" in env.command("heed", "--help")
    assert env.command("heed", "forecasting", "--help").count("train")
    env.command("heed-forecasting", "sample", "--out", "series")
    assert [path for path in (env.elsewhere / "series").rglob("*") if path.stat().st_size]


@pytest.mark.parametrize("domain", ["finance", "forecasting", "medical"])
def test_a_folder_of_the_checkout_installs_with_its_siblings(environment, domain):
    env = environment(*PACKAGES, extra=["hatchling"])
    env.install(CHECKOUT / "packages" / domain)
    installed = env.pip("list")
    ours = {name for name in PACKAGES if name in installed}
    assert ours == {"heed-core", "heed-runtime", f"heed-{domain}"}
    env.command(f"heed-{domain}", "sample", "--out", "sample")
    assert [path for path in (env.elsewhere / "sample").rglob("*") if path.is_file()]
    where = env.python("import shared_runtime; print(shared_runtime.__file__)")
    assert where.startswith(str(env.bin.parent))


def test_an_editable_install_reads_the_checkout(environment):
    env = environment(*PACKAGES, extra=["hatchling"])
    env.install("--editable", CHECKOUT / "packages" / "forecasting")
    where = env.python("import domains.forecasting, shared_runtime as r; print(r.__file__)")
    assert where.strip() == str(CHECKOUT / "shared_runtime" / "__init__.py")
    assert "heed-core" not in env.pip("list")
    env.pip("check")
    assert "forecasting" in env.command("heed-forecasting", "--help")


def test_two_domains_live_beside_each_other(built, environment, tmp_path):
    for name, text in SECOND_DOMAIN.items():
        target = tmp_path / "second" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    env = environment(*PACKAGES, extra=["hatchling"])
    env.install(*[built[name].wheel for name in PACKAGES], tmp_path / "second")
    both = env.command("heed", "--help")
    assert "forecasting" in both and "second" in both

    env.pip("uninstall", "--yes", "heed-forecasting")
    assert "A second domain." in env.command("heed", "second", "--help")
    assert "forecasting" not in env.command("heed", "--help")
    env.python("import domains.second")
    assert "No module named 'domains.forecasting'" in env.python("import domains.forecasting", 1)

    env.install(built["heed-forecasting"].wheel)
    env.pip("uninstall", "--yes", "heed-second")
    assert env.command("heed", "forecasting", "--help").count("train")
    env.python("import domains.forecasting")
    assert "No module named 'domains.second'" in env.python("import domains.second", 1)
