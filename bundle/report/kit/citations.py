"""BibTeX of what a run used: the method, this software, and each library, measure and data set that a file names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bundle.report.kit.latex import escaped
from bundle.report.kit.runs import Runs
from bundle.report.measured import sections

# key -> (kind, fields). Names of packages, measures and samplers below say when one is used.
ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "ye2023histodiffusion": (
        "inproceedings",
        {
            "author": "Ye, Jiarong and Ni, Haomiao and Jin, Peng and Huang, Sharon X. and Xue, Yuan",
            "title": "Synthetic Augmentation with Large-Scale Unconditional Pre-training",
            "booktitle": "Medical Image Computing and Computer Assisted Intervention (MICCAI)",
            "year": "2023",
            "eprint": "2308.04020",
            "archiveprefix": "arXiv",
        },
    ),
    "rombach2022": (
        "inproceedings",
        {
            "author": r"Rombach, R. and Blattmann, A. and Lorenz, D. and Esser, P. and Ommer, B.",
            "title": "High-Resolution Image Synthesis with Latent Diffusion Models",
            "booktitle": "CVPR",
            "year": "2022",
            "eprint": "2112.10752",
            "archiveprefix": "arXiv",
        },
    ),
    "dhariwal2021": (
        "inproceedings",
        {
            "author": "Dhariwal, Prafulla and Nichol, Alexander",
            "title": "Diffusion Models Beat {GANs} on Image Synthesis",
            "booktitle": "NeurIPS",
            "year": "2021",
            "eprint": "2105.05233",
            "archiveprefix": "arXiv",
        },
    ),
    "lu2022": (
        "article",
        {
            "author": "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
            "title": "{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
            "journal": "arXiv preprint arXiv:2211.01095",
            "year": "2022",
        },
    ),
    "song2021": (
        "inproceedings",
        {
            "author": "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
            "title": "Denoising Diffusion Implicit Models",
            "booktitle": "ICLR",
            "year": "2021",
            "eprint": "2010.02502",
            "archiveprefix": "arXiv",
        },
    ),
    "heusel2017": (
        "inproceedings",
        {
            "author": "Heusel, M. and Ramsauer, H. and Unterthiner, T. and Nessler, B. and Hochreiter, S.",
            "title": "{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local {Nash} Equilibrium",
            "booktitle": "NeurIPS",
            "year": "2017",
        },
    ),
    "binkowski2018": (
        "inproceedings",
        {
            "author": r"Bi{\'n}kowski, Miko{\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur",
            "title": "Demystifying {MMD} {GANs}",
            "booktitle": "ICLR",
            "year": "2018",
        },
    ),
    "kynkaanniemi2019": (
        "inproceedings",
        {
            "author": r"Kynk{\"a}{\"a}nniemi, T. and Karras, T. and Laine, S. and Lehtinen, J. and Aila, T.",
            "title": "Improved Precision and Recall Metric for Assessing Generative Models",
            "booktitle": "NeurIPS",
            "year": "2019",
        },
    ),
    "naeem2020": (
        "inproceedings",
        {
            "author": "Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun",
            "title": "Reliable Fidelity and Diversity Metrics for Generative Models",
            "booktitle": "ICML",
            "year": "2020",
        },
    ),
    "friedman2023": (
        "article",
        {
            "author": "Friedman, Dan and Dieng, Adji Bousso",
            "title": "The {Vendi} Score: A Diversity Evaluation Metric for Machine Learning",
            "journal": "Transactions on Machine Learning Research",
            "year": "2023",
        },
    ),
}
ALWAYS = ("ye2023histodiffusion",)
OF_SAMPLER = {"sde_dpm_solver++": ("lu2022",), "dpm_solver++": ("lu2022",), "ddim": ("song2021",)}
OF_METRIC = {
    "frechet": ("heusel2017",),
    "kid": ("binkowski2018",),
    "precision": ("kynkaanniemi2019",),
    "recall": ("kynkaanniemi2019",),
    "density": ("naeem2020",),
    "coverage": ("naeem2020",),
    "vendi": ("friedman2023",),
}
# Of a package that `software.json` records: title, address.
PACKAGES = {
    "monai": ("MONAI: Medical Open Network for AI", "https://monai.io"),
    "torch": ("PyTorch", "https://pytorch.org"),
    "torchvision": ("torchvision", "https://github.com/pytorch/vision"),
    "pytorch-ignite": ("PyTorch-Ignite", "https://pytorch-ignite.ai"),
    "timm": ("PyTorch Image Models", "https://github.com/huggingface/pytorch-image-models"),
    "numpy": ("NumPy", "https://numpy.org"),
    "scipy": ("SciPy", "https://scipy.org"),
    "scikit-learn": ("scikit-learn", "https://scikit-learn.org"),
    "scikit-image": ("scikit-image", "https://scikit-image.org"),
    "torch-fidelity": ("torch-fidelity", "https://github.com/toshas/torch-fidelity"),
    "lpips": ("LPIPS", "https://github.com/richzhang/PerceptualSimilarity"),
}
LINE = re.compile(r"^\s*(DOI|Source|Attribution):\s+(.+?)\s*$", re.MULTILINE)
DOI = re.compile(r"10\.\d{4,9}/[^\s,;]+")


def bibliography(runs: Runs, metadata: Mapping[str, Any], licence: str | None) -> str:
    """BibTeX entries, each once.

    Args:
        runs: the runs of the paper.
        metadata: content of configs/metadata.json, for this software.
        licence: text on the data's licence, whose DOI is cited; None where the author gave none.
    """
    software = {"author": "{" + escaped(metadata["authors"]) + "}", "title": "{HistoDiffusion} as a {MONAI} bundle"}
    versions = {name: version for run in runs.of.values() for name, version in run.software.items()}
    if versions.get("histodiffusion"):  # what ran, not what this is written with
        software["version"] = escaped(versions["histodiffusion"])
    found = [entry(key, *ENTRIES[key]) for key in dict.fromkeys(_used(runs))]
    found.append(entry("histodiffusion_bundle", "misc", software))
    for name, (title, address) in PACKAGES.items():
        if name in versions:
            fields = {"title": "{" + escaped(title) + "}", "version": escaped(versions[name]), "url": address}
            found.append(entry(f"software_{name.replace('-', '_')}", "misc", fields))
    return "\n".join([*found, *_data(runs, licence)])


def _used(runs: Runs) -> Iterator[str]:
    yield from ALWAYS
    if {"pretrain", "adapt"} & runs.of.keys():
        yield "rombach2022"
    settings = runs.evaluation.get("synthetic", {}).get("settings") or {}
    if "inference" in runs.of:
        settings = settings or runs.of["inference"].metrics.get("synthesis", {}).get("settings", {})
    if settings.get("guidance_scale"):
        yield "dhariwal2021"
    yield from OF_SAMPLER.get(settings.get("sampler"), ())
    for _, found in sections(runs.evaluation):
        for metric in found.get("overall", {}):
            yield from OF_METRIC.get(metric, ())


def _data(runs: Runs, licence: str | None) -> Iterator[str]:
    if licence is None or runs.built_in:
        return
    lines = dict(LINE.findall(licence))
    if match := DOI.search(lines.get("DOI", "")):
        fields = {"title": "{" + escaped(lines.get("Attribution", "Data set").strip('"')) + "}", "doi": match[0]}
        yield entry("data_set", "misc", fields)


def entry(key: str, kind: str, fields: Mapping[str, str]) -> str:
    """One entry; the values are LaTeX already."""
    return f"@{kind}{{{key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}\n"
