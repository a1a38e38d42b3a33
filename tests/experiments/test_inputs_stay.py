"""Programs do not change their inputs: scans, labels, manifests, models and stores.

All of them keep their bytes and times.
"""

import hashlib
import json
import pathlib
import re
import shutil

import pytest

from preprocessing import nifti
from tests import forked
from tests.experiments import evaluated_store, run_folder
from tests.experiments.study import CASES, SHALLOW, Study, scan
from tests.preprocessing import dicom_files
from tests.preprocessing.deformed import test_deformed_cohort

ROOT = pathlib.Path(__file__).parents[2]
# programs that read no scan, label, manifest, model or store of a site, or that write where they
# read: kits, the server's own folder, runs; faulty_site is join with a fault
OTHERS = {
    "audit",
    "doctor",
    "dryrun",
    "faulty_site",
    "operate",
    "provision",
    "request",
    "search_all",
    "status",
    "study",
    "synthesize",
    "table1",
}


def digests(*places):
    """Returns file -> digest and time of the last change, of files and of all files below folders."""
    files = [
        file
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file()
    ]
    return {
        file: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in files
    }


class Watch:
    """Runs programs and remembers which have left their inputs as they were."""

    def __init__(self, folder):
        self.folder, self.ran = folder, set()

    def run(self, program, *flags, inputs, codes=(0,)):
        before = digests(*inputs)
        assert before
        done = forked.run(f"experiments.{program}", *flags)
        assert done.returncode in codes and "Traceback" not in done.stderr, (
            f"{program}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        )
        self.unchanged(program, before)

    def unchanged(self, program, before):
        now = digests(*before)
        assert now == before, (
            f"{program} changed {[str(file) for file in before if now.get(file) != before[file]]}"
        )
        self.ran.add(program)


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    return Watch(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def study(watch):
    """A study whose stores are prepared, by the programs that read scans and manifests."""
    made = Study(watch.folder, genotype=SHALLOW)
    made.make_scans()
    for site in CASES:
        scans = made.folder / "scans" / site
        manifest = scans / "manifest.json"
        for name in ("ct", "masks"):
            (made.folder / name / site).mkdir(parents=True)
        for file in scans.glob("*.nii.gz"):
            kind = "ct" if file.name.startswith("image") else "masks"
            shutil.copy(file, made.folder / kind / site / re.sub("image|label", "case", file.name))
        pair = [made.folder / "ct" / site, made.folder / "masks" / site]
        watch.run(
            "list_cases",
            f"--site={site}",
            f"--images={pair[0]}",
            f"--labels={pair[1]}",
            f"--output={made.folder / site}.json",
            inputs=pair,
        )
        common = [
            f"--manifest={manifest}",
            f"--site_folder={made.site_folder(site)}",
            "--workers=1",
        ]
        watch.run(
            "prepare",
            *made.flags(),
            "--check",
            "--nostrict",
            *common,
            inputs=[scans, made.flag_file],
        )
        split = {"C1": "3,1,1", "C2": "4,1,1"}[site]
        watch.run("prepare", *made.flags(split=split), *common, inputs=[scans, made.flag_file])
        store = made.site_folder(site) / "cases"
        watch.run("cohort_report", *common, inputs=[scans, store])
    (made.folder / "sources").mkdir()
    listed = test_deformed_cohort.write_sources(made.folder / "sources")
    flags = ["--split_c1=1,1,1", "--split_c2=1,1,1", f"--output={made.folder / 'copies'}"]
    watch.run("deform_cohort", f"--manifest={listed}", *flags, inputs=[listed.parent])
    reports = [made.site_folder(site) / "cohort.json" for site in CASES]
    watch.run(
        "compare_cohorts",
        f"--reports={reports[0]},{reports[1]}",
        f"--output={made.folder / 'both.html'}",
        inputs=reports,
    )
    return made


@pytest.mark.slow
def test_what_reads_scans_manifests_and_stores(watch, study):
    assert {
        "list_cases",
        "prepare",
        "cohort_report",
        "compare_cohorts",
        "deform_cohort",
    } <= watch.ran


@pytest.mark.slow
def test_what_trains_scores_and_predicts(watch, study):
    stores = [study.site_folder(site) / "cases" for site in CASES]
    genotype, scans = (
        [study.folder / "genotype.json", study.flag_file],
        study.folder / "scans" / "C2",
    )
    watch.run("init_model", *study.flags(output=study.initial, threads=1), inputs=genotype)
    baseline = study.site_folder("C2", "baseline")
    short = {"num_rounds": 1, "local_epochs": 1, "threads": 1}
    arguments = study.flags(site_folder=study.site_folder("C2"), **short)
    watch.run(
        "train_local",
        *arguments,
        f"--initial_model={study.initial}",
        inputs=[study.initial, *stores, *genotype],
    )
    weights, model = baseline / "best.safetensors", baseline / "model"
    watch.run(
        "train_local", *arguments, f"--fine_tune={model}", inputs=[baseline, *stores, *genotype]
    )
    folders = ",".join(str(study.site_folder(site)) for site in CASES)
    pooled = study.folder / "pooled"
    flags = study.flags(site_folders=folders, initial_model=study.initial, output=pooled, **short)
    watch.run("train_pooled", *flags, inputs=[study.initial, *stores, *genotype])
    flags = study.flags(
        site_folder=study.site_folder("C2"),
        models=f"pooled:{pooled / 'best.safetensors'}",
        threads=1,
    )
    watch.run(
        "score",
        *flags,
        f"--output={study.folder / 'rows.jsonl'}",
        inputs=[pooled, *stores, *genotype],
    )
    packed = study.folder / "packed"
    flags = study.flags(
        weights=weights, name="C2_baseline", site_folder=study.site_folder("C2"), output=packed
    )
    watch.run("package", *flags, inputs=[weights, *stores, *genotype])
    watch.run(
        "export",
        f"--model={model}",
        f"--output={study.folder / 'exported'}",
        "--window=16,16,8",
        "--threads=1",
        inputs=[model],
    )
    flags = study.flags(
        site_folder=study.site_folder("C2"),
        weights=weights,
        output=study.folder / "fog.png",
        threads=1,
    )
    watch.run("reconstructions", *flags, inputs=[weights, *stores, *genotype])

    series = study.folder / "to segment" / "series"
    slices = dicom_files.slices(nifti.read_ct(scans / "image0.nii.gz"))
    for ds in slices:  # which a segmentation object repeats
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = "1.2.826.0.1.9", "1.2.826.0.1.8"
    dicom_files.save(series, slices)
    shutil.copy(scans / "image1.nii.gz", study.folder / "to segment")
    masks = study.folder / "predicted"
    flags = [
        f"--model={model}",
        f"--image={study.folder / 'to segment'}",
        f"--output={masks}",
        "--threads=1",
    ]
    extras = (
        ["--overlay", "--probabilities", "--dicom_seg"]
        if _has_highdicom()
        else ["--overlay", "--probabilities"]
    )
    watch.run("predict", *flags, *extras, inputs=[study.folder / "to segment", model])
    watch.run(
        "predict", *flags, *extras, "--skip_existing", inputs=[study.folder / "to segment", model]
    )
    labels = study.folder / "labels"
    labels.mkdir()
    for name, number in (("series", 0), ("image1", 1)):
        shutil.copy(scans / f"label{number}.nii.gz", labels / f"{name}.nii.gz")
    watch.run(
        "evaluate",
        f"--prediction={masks}",
        f"--truth={labels}",
        f"--output={study.folder / 'scores'}",
        inputs=[masks, labels],
    )


@pytest.mark.slow
def test_what_learns_one_scan(watch, study):
    files = [study.folder / "scans" / "C2" / name for name in ("image0.nii.gz", "label0.nii.gz")]
    flags = study.flags(
        image=files[0],
        label=files[1],
        output=study.folder / "overfit",
        max_steps=2,
        score_every=2,
        until_dice=0,
        threads=1,
    )
    inputs = [*files, study.folder / "genotype.json", study.flag_file]
    watch.run("overfit", *flags, inputs=inputs, codes=(0, 1))  # 1: two steps learn nothing


def _has_highdicom():
    try:
        import highdicom
    except ImportError:
        return False
    return highdicom is not None


@pytest.mark.slow
def test_what_joins_a_federation(watch, study):
    stores = [study.site_folder(site) / "cases" for site in CASES]
    with study.group() as group:
        group.wait(
            [group.start("kits", "experiments.provision", [f"--output={study.kits}", "--port=0"])],
            "kits",
        )
        if not study.initial.exists():
            group.wait(
                [
                    group.start(
                        "init",
                        "experiments.init_model",
                        study.flags(output=study.initial, threads=1),
                    )
                ],
                "initial model",
            )
        before = digests(study.initial, study.kits, *stores, study.flag_file)
        server, port = study.serve(group, study.folder / "store")
        group.wait(
            [*(study.join(group, site, port, lend=False) for site in CASES), server], "federation"
        )
    for program in ("serve", "join"):
        watch.unchanged(program, before)
    scans, others = study.folder / "scans" / "C2", study.folder / "others"
    watch.run(
        "prepare",
        *study.flags(split=f"0,0,{CASES['C2']}", site="C1", site_folder=others),
        f"--manifest={scans / 'manifest.json'}",
        "--workers=1",
        inputs=[scans, study.flag_file],
    )
    watch.run(
        "membership",
        *study.flags(threads=1, patches=1, output=study.folder / "membership"),
        f"--models=initial:{study.initial}",
        f"--members=C1:{study.site_folder('C1')}",
        f"--nonmembers=C1:{others}",
        inputs=[study.initial, others / "cases", *stores, study.flag_file],
    )


@pytest.mark.slow
def test_what_reads_a_run(watch, tmp_path):
    run_folder.leave_study(tmp_path)
    run = tmp_path / "table1" / "seed2"
    run_folder.leave_cases(run)
    rows = "".join(json.dumps(row) + "\n" for row in run_folder.rows())
    (run / "server" / "rows.jsonl").write_text(rows)
    for program in ("run_report", "verify"):
        watch.run(program, f"--run={run}", inputs=[run])
    (tmp_path / "evaluated").mkdir()
    store = evaluated_store.leave(tmp_path / "evaluated")
    watch.run(
        "evaluation_report",
        f"--store={store}",
        f"--output={tmp_path / 'report'}",
        inputs=[store],
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", ["search_topology", "search_operations", "search_evidence"])
def test_a_search_does_not_write_among_prepared_cases(watch, study, program):
    sites = [study.site_folder(site) for site in CASES]
    watch.run(
        program,
        f"--site_folders={','.join(map(str, sites))}",
        f"--output={sites[0] / 'cases'}",
        inputs=[site / "cases" for site in sites],
        codes=(1,),
    )


@pytest.mark.slow
def test_a_search_of_paths_does_not_write_over_the_supernet(watch, study, tmp_path):
    supernet = tmp_path / "search.json"  # the name that the search's own state would have
    supernet.write_bytes(b"a supernet")
    flags = [f"--trained={supernet}", f"--output={tmp_path}"]
    watch.run("search_federated", "--supernet", *flags, inputs=[supernet], codes=(1,))


@pytest.mark.slow
def test_no_program_is_forgotten(watch, study):
    programs = {
        path.stem
        for path in (ROOT / "experiments").glob("[!_]*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    assert (
        programs - watch.ran - OTHERS == set() or not {"predict", "join", "verify"} <= watch.ran
    )  # where the tests above were left out
    assert programs >= OTHERS


@pytest.mark.parametrize("program", ["prepare", "cohort_report"])
def test_a_folder_of_scans_that_is_refused_as_the_site_folder_stays_open_to_others(
    tmp_path, program
):
    series = tmp_path / "series"
    dicom_files.save(series, dicom_files.slices(scan("C1", 1)[0]))
    series.chmod(0o755)
    cases = [{"case_id": "a", "image": "series", "label": None}]
    (tmp_path / "manifest.json").write_text(json.dumps({"site": "C1", "cases": cases}))
    done = forked.run(
        f"experiments.{program}",
        f"--manifest={tmp_path / 'manifest.json'}",
        f"--site_folder={series}",
    )
    assert done.returncode == 1 and "would replace it" in done.stderr, done.stderr
    assert series.stat().st_mode & 0o777 == 0o755
