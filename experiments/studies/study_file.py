"""A study file: its seeds, points and sites, read once, checked and turned into frozen values.

    {
      "name": "demo",
      "profile": "demo",                  a flag file in experiments/flagfiles, or a path
      "seeds": [1, 2, 3],
      "pictures": "synthetic",            or "public"; "private" keeps scans off the joint page
      "settings": {"num_rounds": 13},     optional: flags that all points change
      "phantom": "hard",                  optional: "standard" or "hard", see docs/data.md
      "sites": {
        "C1": {"cohort": {"C1": 30}, "split": [18, 6, 6]},
        "C2": {"manifest": "msd/manifest.json", "split_list": "msd.json"}
      },
      "points": [
        {"label": "table1", "beyond": ["pooled", "finetuned"]},
        {"label": "no_vae", "settings": {"vae": "none"}, "baselines": false,
         "rows": {"FL_global": "FL_global_no_vae"}}
      ],
      "axis": "local epochs per round",   for a sweep: the quantity that the labels are values of
      "margin": 10,                       for a sweep: judges points `against` others, in points
      "nonmembers": 100,                  measures membership inference against this many patients
                                          per site whom no site has (`leakage_results`)
      "local_models": false,              sites keep their local models, and only FL_global is
                                          scored: for studies that ask about it alone
      "variants": true                    the points compute one setting in different ways
    }

The first point makes the study's table. The `rows` of a later point enter that table under the
given names. In a sweep, which has an `axis`, every point has its own table. A point can replace
`sites` and `phantom`.

Instead of a `cohort` or a `manifest`, sites C1 and C2 can have `"deformed": "manifest.json"`, a
list of real CTs with masks of healthy pancreases; experiments.deform_cohort then makes the cases,
and `split` is the number of copies.

In a sweep with a `margin`, points can name an earlier point with the same sites as `against`; the
report then says whether they keep its result (`comparison`). A point can make a site faulty on
purpose: `"fault": {"C3": "stuck"}`, with one of the faults in `faults`. It can give sites a privacy
policy, by the names of its settings, where "*" means every site that is not named:
`"privacy": {"*": {"filter": "percentile", "percentile": 75}}`.

If the study has `variants`, it counts in how many of them each finding holds. Its points can have
`threads_per_site`, an `environment` for their programs, e.g. {"ONEDNN_MAX_CPU_ISA": "AVX2"}, and
`"stack": "other"`, which uses the Python of the other stack's environment. A slow point other than
the first can have fewer `seeds`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.configuration import ExperimentConfig
from experiments.run import run_plan
from experiments.studies import faults, study_keys
from federated.errors import PolicyRefused
from federated.privacy.policy import PrivacyPolicy
from federated.wire.site_names import check_site_name
from runkit import atomic, printable, settings

_FLAGFILES = pathlib.Path(__file__).parents[1] / "flagfiles"
_EVERY_SITE = "*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a study, run once with every seed, or with some of them."""

    label: str
    settings: Mapping[str, Any]
    sites: Mapping[str, Mapping[str, Any]]
    baselines: bool = True
    beyond: tuple[str, ...] = ()
    rows: Mapping[str, str] = dataclasses.field(default_factory=dict)
    threads_per_site: int | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stack: str = "own"
    phantom: str = "standard"
    against: str | None = None
    fault: Mapping[str, str] = dataclasses.field(default_factory=dict)
    privacy: Mapping[str, PrivacyPolicy] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] | None = None  # None: all seeds of the study


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A checked study file."""

    name: str
    profile: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    pictures: str
    axis: str | None
    margin: float | None
    variants: bool
    threads_per_site: int
    notes: tuple[str, ...]
    nonmembers: int
    local_models: bool
    home: pathlib.Path  # paths of split lists and profiles are relative to it
    data: pathlib.Path  # paths of manifests are relative to it

    @property
    def flag_file(self) -> pathlib.Path:
        """The profile's flag file."""
        named = _FLAGFILES / f"{self.profile}.flags"
        return named if named.exists() else self.home / self.profile

    def runs(self) -> Iterator[tuple[Point, int]]:
        """Yields point and seed of every run."""
        for point in self.points:
            for seed in self.seeds if point.seeds is None else point.seeds:
                yield point, seed


def read(path: str | os.PathLike, data: str | os.PathLike | None = None) -> Study:
    """Reads a study file.

    Args:
      data: the folder that paths of manifests are relative to; by default the study file's folder,
          as for all its other paths.
    Raises:
      ValueError: naming the file, the key, its value and what is expected.
    """
    path = pathlib.Path(path)
    try:
        value = atomic.read_json(path)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); give the path to a study file"
        ) from error
    try:
        home = path.resolve().parent
        return _study(value, home, pathlib.Path(data).resolve() if data else home)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def title(name: str) -> str:
    """Returns a study's heading, e.g. "Study methods"; only "Study" if that is its name."""
    return "Study" if name == "study" else f"Study {name}"


def run_spec(
    study: Study,
    point: Point,
    seed: int,
    folder: pathlib.Path,
    parse: Callable[[list[str]], tuple[ExperimentConfig, str]],
) -> run_plan.RunSpec:
    """Returns one run of a study.

    Args:
      folder: the folder of the study's runs.
      parse: turns flags into a configuration and a flag file's text, e.g.
          `experiments.flags.parse_experiment`.
    """
    arguments = [f"--flagfile={study.flag_file}", f"--seed={seed}"]
    arguments += [f"--{name}={_flag_text(value)}" for name, value in point.settings.items()]
    config, text = parse(arguments)
    return run_plan.RunSpec(
        config=config,
        flags_text=text,
        folder=run_folder(folder, point, seed),
        cohorts=folder.parent / "cohorts",  # shared with other studies of the same patients
        sites=tuple(
            _site(name, value, position, seed, study, point)
            for position, (name, value) in enumerate(point.sites.items())
        ),
        threads_per_site=point.threads_per_site or study.threads_per_site,
        environment=point.environment,
        stack=point.stack,
        baselines=point.baselines,
        beyond=point.beyond,
        notes=(*study.notes, *_fault_notes(point), _data_note(point)),
        nonmembers=study.nonmembers,
        local_models=study.local_models,
    )


def run_folder(folder: pathlib.Path, point: Point, seed: int) -> pathlib.Path:
    """Returns the folder of one run in the folder of the study's runs."""
    return folder / point.label / f"seed{seed}"


def cohort_key(study: Study, config: ExperimentConfig) -> str:
    """Returns a key for the cases of a seed; equal keys mean the same cases.

    Synthetic patients and deformed copies differ between seeds; real scans do not.
    """
    drawn = any("cohort" in site or "deformed" in site for site in study.points[0].sites.values())
    return f"seed {config.seed}" if drawn else "the cohort"


def _study(value: Any, home: pathlib.Path, data: pathlib.Path) -> Study:
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object with `name`, `seeds`, `sites` and `points`")
    value = study_keys.checked(value, study_keys.STUDY)
    for key in ("name", "profile", "seeds", "sites"):
        if key not in value:
            raise ValueError(f"`{key}` is missing")
    common, sites = value.get("settings", {}), value["sites"]
    phantom = value.get("phantom", "standard")
    points = tuple(
        _point(entry, common, sites, phantom)
        for entry in value.get("points", [{"label": "table1"}])
    )
    labels = [point.label for point in points]
    if len(set(labels)) < len(labels):
        raise ValueError(f"`points` has the labels {', '.join(labels)}; give each its own label")
    if "axis" not in value:
        _check_without_axis(value)
    _check_seeds(value, points)
    return Study(
        name=value["name"],
        profile=value["profile"],
        seeds=tuple(value["seeds"]),
        points=points,
        pictures=value.get("pictures", "private"),
        axis=value.get("axis"),
        margin=_margin(value, points),
        variants=value.get("variants", False),
        threads_per_site=value.get("threads_per_site", 1),
        notes=tuple(value.get("notes", ())),
        nonmembers=value.get("nonmembers", 0),
        local_models=value.get("local_models", True),
        home=home,
        data=data,
    )


def _check_without_axis(value: Mapping[str, Any]) -> None:
    for key in ("nonmembers", "margin"):
        if value.get(key):
            raise ValueError(f"`{key}` is given without `axis`; name what the points differ in")
    if not value.get("local_models", True):
        raise ValueError(
            "`local_models` is false without `axis`: Table 1 needs the rows of the local models; "
            "leave it out, or name what the points differ in"
        )


def _check_seeds(value: Mapping[str, Any], points: Sequence[Point]) -> None:
    for number, point in enumerate(points):
        if point.seeds is None:
            continue
        if number == 0 or not value.get("variants"):
            raise ValueError(
                f"point {point.label}: `seeds` is for a later point of a study with `variants`; "
                "leave it out"
            )
        if not set(point.seeds) <= set(value["seeds"]):
            raise ValueError(
                f"point {point.label}: `seeds` is {list(point.seeds)}; expected some of the study's"
            )


def _margin(value: Mapping[str, Any], points: Sequence[Point]) -> float | None:
    """Returns the margin after checking it and the points' `against`."""
    margin, earlier = value.get("margin"), dict[str, Point]()
    if (margin is not None) != any(point.against for point in points):
        raise ValueError(
            f"`margin` is {margin!r}; give it together with points that have `against`"
        )
    for point in points:
        if point.against is not None:
            other = earlier.get(point.against)
            if other is None or (other.sites, other.phantom) != (point.sites, point.phantom):
                raise ValueError(
                    f"point {point.label}: `against` is {point.against!r}; expected the label of "
                    "an earlier point with the same sites and phantom, whose patients are the same"
                )
        earlier[point.label] = point
    return None if margin is None else float(margin)


def _point(
    entry: Mapping[str, Any], common: Mapping[str, Any], sites: Mapping[str, Any], phantom: str
) -> Point:
    """Returns a point; it takes what it does not say from the study."""
    if "label" not in entry:
        raise ValueError("a point has no `label`; give it one")
    label = entry["label"]
    settings.require(study_keys.POINT["label"], "label of a point", label)
    entry = study_keys.checked(entry, study_keys.POINT, f"point {label}")
    own = _sites(label, entry.get("sites", sites))
    baselines = entry.get("baselines", True)
    if "finetuned" in entry.get("beyond", ()) and not baselines:
        raise ValueError(
            f"point {label}: fine-tuning starts from the baselines; omit `baselines` or set it to "
            "true"
        )
    return Point(
        label=label,
        settings={**common, **entry.get("settings", {})},
        sites=own,
        baselines=baselines,
        beyond=tuple(entry.get("beyond", ())),
        rows=dict(entry.get("rows", {})),
        threads_per_site=entry.get("threads_per_site"),
        environment=entry.get("environment", {}),
        stack=entry.get("stack", "own"),
        phantom=entry.get("phantom", phantom),
        against=entry.get("against"),
        fault=_fault(label, entry.get("fault", {}), own),
        privacy=_privacy(label, entry.get("privacy", {}), own),
        seeds=tuple(entry["seeds"]) if "seeds" in entry else None,
    )


def _sites(label: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the sites of a point after checking them."""
    sites = {
        name: study_keys.checked(site, study_keys.SITE, f"site {name}")
        for name, site in given.items()
    }
    for name, site in sites.items():
        check_site_name(name)
        patients, split = sum(site.get("cohort", {}).values()), site.get("split", [])
        if "cohort" in site and sum(split) > patients:
            raise ValueError(
                f"site {name}: `split` is {split}, which needs {sum(split)} patients; `cohort` has "
                f"{patients}"
            )
    if not {"C1", "C2"} <= set(sites):
        raise ValueError(
            f"point {label}: its sites are {', '.join(sites)}; Table 1 needs C1 and C2"
        )
    deformed = {site["deformed"] for site in sites.values() if "deformed" in site}
    if deformed and (
        set(sites) != {"C1", "C2"}
        or any("deformed" not in site for site in sites.values())
        or len(deformed) > 1
    ):
        raise ValueError(
            f"point {label}: `deformed` is for C1 and C2 together, without further sites; give "
            "both the same manifest"
        )
    return sites


def _fault(label: str, value: Any, sites: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns site -> the fault that a point gives it."""
    if not set(value) <= set(sites):
        raise ValueError(f"point {label}: `fault` is {value!r}; expected some of its sites' names")
    for site, fault in value.items():
        settings.require(
            settings.one_of(tuple(faults.FAULTS)), f"point {label}: `fault` of {site}", fault
        )
    if any("cohort" not in sites[name] for name in sites) and value:
        raise ValueError(
            f"point {label}: `fault` is for sites with a synthetic `cohort`; leave it out"
        )
    return dict(value)


def _privacy(label: str, value: Any, sites: Mapping[str, Any]) -> dict[str, PrivacyPolicy]:
    """Returns site -> the policy that a point gives it."""
    if not set(value) <= {*sites, _EVERY_SITE}:
        raise ValueError(
            f"point {label}: `privacy` is {value!r}; expected some of its sites' names, or "
            f"{_EVERY_SITE!r} for all others, with the settings of a policy"
        )
    known = settings.declared(PrivacyPolicy).keys()
    policies = {}
    for name, given in value.items():
        settings.require(study_keys.POLICY, f"point {label}: `privacy` of {name}", given)
        study_keys.known(given, known, f"`privacy` of {name}")
        try:
            policies[name] = PrivacyPolicy(**given)
        except (TypeError, PolicyRefused) as error:
            raise ValueError(
                f"point {label}: `privacy` of {name}: {printable.text(error)}"
            ) from error
    other = policies.pop(_EVERY_SITE, None)
    return policies if other is None else {site: policies.get(site, other) for site in sites}


def _site(
    name: str, value: Mapping[str, Any], position: int, seed: int, study: Study, point: Point
) -> run_plan.SiteSpec:
    split = tuple(value["split"]) if "split" in value else None
    return run_plan.SiteSpec(
        name=name,
        cohort=value.get("cohort", {}),
        # C1 and C2 have the patients of `make table1`; further sites have other patients.
        cohort_seed=seed if position < 2 else seed + 1000 * (position + 1),
        phantom=point.phantom if "cohort" in value else "standard",
        fault=point.fault.get(name, ""),
        privacy=point.privacy.get(name, PrivacyPolicy()),
        manifest=study.data / value["manifest"] if "manifest" in value else None,
        deformed=study.data / value["deformed"] if "deformed" in value else None,
        split=split,
        split_list=study.home / value["split_list"] if "split_list" in value else None,
    )


def _fault_notes(point: Point) -> list[str]:
    return [
        f"EXPERIMENT: site {site} {faults.FAULTS[fault]}, on purpose; the server's check of the "
        "size of a change is off."
        for site, fault in point.fault.items()
    ]


def _data_note(point: Point) -> str:
    parts = []
    for name, site in point.sites.items():
        counts = "/".join(map(str, site["split"])) if "split" in site else "default split"
        if "cohort" in site:
            patients = " and ".join(
                f"{n} of hospital {hospital}" for hospital, n in site["cohort"].items()
            )
            parts.append(
                f"{name} {counts} of {patients}"
                if list(site["cohort"]) != [name]
                else f"{name} {counts}"
            )
        else:
            parts.append(f"{name} {counts if 'split' in site else 'by its list'}")
    kind = "listed scans"
    if any("cohort" in site for site in point.sites.values()):
        kind = (
            "synthetic cohort"
            if point.phantom == "standard"
            else f"{point.phantom} synthetic cohort"
        )
    elif any("deformed" in site for site in point.sites.values()):
        kind = "deformed copies of real CT"
    return (
        f"Data: {kind}, training/validation/test {'; '.join(parts)} "
        "(paper: real CT, C1 252/84/84; C2 286/100/100)."
    )


def _flag_text(value: Any) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )
