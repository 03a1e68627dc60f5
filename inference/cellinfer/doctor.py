"""Is this installation fit to run? What `cellinfer doctor` prints, as data."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

import cellinfer_models
from cellinfer_kernels import cache_folder, cache_is_kept

from cellinfer._version import __version__
from cellinfer.errors import CellinferError
from cellinfer.models import verify
from cellinfer.outputs.runinfo import package_versions
from cellinfer.precision import Precision
from cellinfer.sessions import available_cores, describe_engine, open_session, precisions


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, whether it is well, and what to know or do."""

    topic: str
    good: bool
    text: str


def examine() -> list[Finding]:
    """Look at everything that a run needs."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return [
        Finding("cellinfer", True, f"{__version__} on Python {platform.python_version()}, {platform.platform()}"),
        Finding("packages", True, versions),
        Finding("cores", True, f"{available_cores()} usable"),
        *_engine(),
        _kernels(),
        *_models(),
        _structures(),
    ]


def _engine() -> list[Finding]:
    engine = describe_engine()
    if engine["version"] is None:
        return [Finding("network engine", False, engine["problem"])]
    found = [Finding("network engine", True, f"onnxruntime {engine['version']}: {', '.join(engine['providers'])}")]
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        text = (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall both, then install 'cellinfer[cpu]' or 'cellinfer[gpu]'"
        )
        found.append(Finding("network engine", False, text))
    if "CUDAExecutionProvider" in engine["providers"]:
        found.append(_cuda())
    else:
        found.append(Finding("GPU", True, "not used: this onnxruntime has no CUDA support"))
    return found


def _cuda() -> Finding:
    try:
        open_session("nuclei", "cuda")
    except CellinferError as error:
        return Finding("GPU", False, str(error))
    return Finding("GPU", True, "CUDA works")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _kernels() -> Finding:
    folder = cache_folder()
    kept = cache_is_kept()
    text = f"compiled code is kept in {folder}"
    if not kept:
        text += "; it is lost when the process ends: set CELLINFER_CACHE to a folder you can write to"
    return Finding("kernel cache", kept, text)


def _structures() -> Finding:
    try:
        from cellinfer.activity.chemistry import version
        from cellinfer.activity.structures import kernels_agree
    except CellinferError as error:
        return Finding("chemical structures", True, f"not read: {error}")
    how = "" if kernels_agree() else "; its molecules are not known to our kernels: predictions take longer"
    return Finding("chemical structures", True, f"RDKit {version()}{how}")


def _models() -> list[Finding]:
    findings: list[Finding] = []
    for name in cellinfer_models.registry():
        verified = [_verified(name, precision) for precision in precisions(name)]
        findings += verified
        if len(verified) > 1 and all(finding.good for finding in verified):
            choice = open_session(name, threads=1, precision="auto").choice  # as `run` does with a worker per core
            text = f"{choice.precision} with one thread, as in a run: {choice.why}"
            findings.append(Finding(f"precision of {name}", True, text))
    return findings


def _verified(name: str, precision: Precision) -> Finding:
    try:
        return Finding(f"model {name}", True, verify(name, precision))
    except CellinferError as error:
        return Finding(f"model {name}", False, str(error))
