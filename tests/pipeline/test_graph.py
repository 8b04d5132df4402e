"""A graph that cannot work is refused before the first packet, with one sentence that names the mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from pipeline.compute import Compute
from pipeline.errors import GraphError, PipelineError
from pipeline.graph import Graph, Stage, load
from pipeline.operator import KeyedOperator, Operator
from pipeline.packets import Face, Frame, TrackedFace
from pipeline.policy import Policy
from pipeline.testing import MemorySink

ROOT = Path(__file__).parents[2]
GRAPHS = sorted((ROOT / "deploy" / "graphs").glob("*.yaml"))
DECODE = 'stages: {decode: {use: "operators.decode:Decode"}}'
SINK = "pipeline.testing:MemorySink"

AnyFace = TypeVar("AnyFace", bound=Face)


class Find(Operator[Frame, Face]):
    def __call__(self, batch: Sequence[Frame]) -> list[Face]:
        return []


class Follow(KeyedOperator[Frame | Face, TrackedFace, int]):
    def start(self, stream: str) -> int:
        return 0

    def __call__(self, state: int, batch: Sequence[Frame | Face]) -> tuple[int, list[TrackedFace]]:
        return state, []


class Sieve(Operator[AnyFace, AnyFace]):
    def __init__(self, sharpness: float = 50.0, *, policy: Policy, compute: Compute) -> None:
        self.sharpness, self.policy, self.compute = sharpness, policy, compute

    def __call__(self, batch: Sequence[AnyFace]) -> list[AnyFace]:
        return list(batch)


class Judge(Operator[TrackedFace, TrackedFace]):
    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, batch: Sequence[TrackedFace]) -> list[TrackedFace]:
        return list(batch)


@pytest.fixture(autouse=True)
def declared(named: Callable[[type], str]) -> None:
    for kind in (Find, Follow, Sieve, Judge):
        named(kind)


def stage(name: str, after: str | tuple[str, ...] = (), **arguments: object) -> Stage:
    path = name if ":" in name else f"pipeline.testing:{name}"
    return Stage(use=path, after=after, args=arguments)


def faces(**more: Stage) -> dict[str, Stage]:
    return {"decode": stage("operators.decode:Decode"), "find": stage("Find", "decode"), **more}


def refused(text: str, folder: Path, values: dict[str, str] | None = None) -> str:
    """The one sentence with which a graph file of this text is refused."""
    file = folder / "graph.yaml"
    file.write_text(text)
    with pytest.raises(GraphError) as error:
        load(file, values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_stages_come_out_upstream_first_however_they_are_written() -> None:
    graph = Graph(dict(reversed(faces(follow=stage("Follow", ("decode", "find"))).items())))
    assert [name for name, _ in graph] == ["decode", "find", "follow"]
    assert [name for name, _ in graph if graph.keyed(name)] == ["decode", "follow"]


def test_a_stage_after_an_unknown_one_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^'find' comes after unknown \['dekode'\]; the stages are \['decode', 'find"):
        Graph(faces(find=stage("Find", "dekode")))


def test_a_sink_after_an_unknown_stage_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^'out' comes after unknown \['fnid'\]"):
        Graph(faces(), sinks={"out": stage(SINK, "fnid")})


def test_a_cycle_is_refused_by_naming_it() -> None:
    with pytest.raises(GraphError, match=r"^stages form a cycle: \w+ -> \w+ -> \w+; remove one `after`$"):
        Graph({"a": stage("Judge", "b", limit=1), "b": stage("Judge", "a", limit=1)})


def test_a_stage_that_cannot_take_what_it_is_given_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^'find' gives Face but 'judge' takes TrackedFace$"):
        Graph(faces(judge=stage("Judge", "find", limit=1)))


def test_a_first_stage_that_takes_no_chunks_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^'source' gives Chunk but 'find' takes Frame$"):
        Graph({"find": stage("Find")})


def test_a_sink_that_cannot_take_what_it_is_given_is_refused() -> None:
    with pytest.raises(GraphError, match=r"^'find' gives Face but 'video' takes DrawnFrame$"):
        Graph(faces(), sinks={"video": stage("pipeline.edges.video_out:AnnotatedVideo", "find", path="x.mp4")})


def test_a_sink_after_no_stage_is_refused() -> None:
    with pytest.raises(GraphError, match="'out' is a sink and needs `after:`"):
        Graph(faces(), sinks={"out": stage(SINK)})


def test_a_sink_may_not_have_the_name_of_a_stage() -> None:
    with pytest.raises(GraphError, match="'find' is a stage and a sink; give them different names"):
        Graph(faces(), sinks={"find": stage(SINK, "decode")})


def test_only_sinks_may_come_after_a_stage_that_runs_aside() -> None:
    aside = Stage(use="pipeline.testing:Follow", after=("find",), aside=True)
    assert Graph(faces(follow=aside), sinks={"out": stage(SINK, "follow")})
    with pytest.raises(GraphError, match="'judge' comes after 'follow', which runs aside; only sinks may"):
        Graph(faces(follow=aside, judge=stage("Judge", "follow", limit=1)))


def test_an_argument_with_a_typo_is_refused_with_those_there_are() -> None:
    with pytest.raises(GraphError, match=r"^'judge': pipeline.testing:Judge takes no argument \['limt'\].*\['limit'\]"):
        Graph(faces(follow=stage("Follow", "find"), judge=stage("Judge", "follow", limt=1)))


def test_a_missing_argument_is_refused_by_name() -> None:
    with pytest.raises(
        GraphError, match=r"^'judge': pipeline.testing:Judge needs \['limit'\]; give them under `with:`"
    ):
        Graph(faces(follow=stage("Follow", "find"), judge=stage("Judge", "follow")))


@pytest.mark.parametrize(
    ("nested", "sentence"),
    [
        ({"use": "pipeline.gallery:MemoryGallery", "with": {"pth": "x"}}, r"MemoryGallery takes no argument \['pth'\]"),
        ({"use": "pipeline.gallery:Memory"}, "cannot find 'pipeline.gallery:Memory'"),
        ({"use": "shutil:rmtree"}, "cannot use 'shutil:rmtree'"),
    ],
)
def test_parts_inside_of_arguments_are_checked_before_they_are_built(nested: dict[str, object], sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        Graph(faces(follow=stage("Follow", "find"), judge=stage("Judge", "follow", limit=nested)))


def test_the_arguments_of_the_source_are_checked(tmp_path: Path) -> None:
    source = 'source: {use: "pipeline.edges.files:VideoFile", with: {pat: x}}\n'
    assert "'source': pipeline.edges.files:VideoFile takes no argument ['pat']" in refused(source + DECODE, tmp_path)


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    source = 'source: {use: "operators.decode:Decode"}\n'
    assert "'source': operators.decode:Decode is no Source" in refused(source + DECODE, tmp_path)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("operators.decode:Decod", "cannot find 'operators.decode:Decod'"),
        ("operators.decodes:Decode", "cannot find 'operators.decodes:Decode'"),
        ("operators.decode:", "cannot find 'operators.decode:'"),
        ("operators.align:align", "'operators.align:align' is no class"),
        ("pipeline.gallery:MemoryGallery", "pipeline.gallery.memory:MemoryGallery must subclass Operator"),
    ],
)
def test_a_class_that_is_none_is_refused(path: str, sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        Graph({"decode": stage(path)})


@pytest.mark.parametrize("path", ["os:system", "subprocess:Popen", "operatorsx:A", "deploy.demo.wall:Wall"])
def test_a_graph_names_classes_of_its_own_two_packages_only(path: str) -> None:
    with pytest.raises(GraphError, match=f"cannot use '{path}': a graph may name classes of operators and pipeline"):
        Graph({"decode": stage(path)})


def test_an_operator_that_passes_packets_through_keeps_their_richer_type() -> None:
    graph = Graph(
        faces(
            early=stage("Sieve", "find"),
            follow=stage("Follow", ("decode", "early")),
            late=stage("Sieve", "follow"),
            both=stage("Sieve", ("find", "follow")),
            judge=stage("Judge", "late", limit=1),
        )
    )
    given = graph.gives()
    assert given["early"] == {Face}
    assert given["late"] == {TrackedFace}
    assert given["both"] == {Face, TrackedFace}


def test_policy_and_compute_reach_every_constructor_that_names_them() -> None:
    policy, compute = Policy(setting="private"), Compute(device="cpu", threads=2)
    graph = Graph(faces(sieve=stage("Sieve", "find", sharpness=80.0)), policy=policy, compute=compute)
    built = graph.build_stage("sieve")
    assert isinstance(built, Sieve)
    assert (built.sharpness, built.policy, built.compute) == (80.0, policy, compute)


def test_a_part_inside_of_arguments_is_built_too() -> None:
    kept: list[object] = []
    nested = {"use": SINK, "with": {"kept": kept}}
    graph = Graph(faces(follow=stage("Follow", "find"), judge=stage("Judge", "follow", limit=nested)))
    built = graph.build_stage("judge")
    assert isinstance(built, Judge)
    assert isinstance(built.limit, MemorySink)
    assert built.limit.kept is kept


def test_the_part_of_a_graph_up_to_a_stage_has_what_it_needs_and_no_more() -> None:
    whole = Graph(faces(follow=stage("Follow", ("decode", "find"))), sinks={"out": stage(SINK, "follow")})
    part = whole.up_to("find")
    assert list(part.stages) == ["decode", "find"]
    assert part.sinks == {}
    with pytest.raises(GraphError, match=r"no stage 'embed'; its stages are \['decode', 'find', 'follow'\]"):
        whole.up_to("embed")


# Files


def test_variables_are_put_in_after_parsing(tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(
        'vars: {a: x, b: y}\nsource: {use: "pipeline.edges.files:VideoFile", with: {path: "${a}"}}\n' + DECODE
    )
    awkward = "D: my 'clips' #1 {old}\\${b}.mp4"
    graph = load(file, {"a": awkward})
    assert graph.source is not None
    assert graph.source.args == {"path": awkward}


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text('vars: {a: file}\nsource: {use: "pipeline.edges.files:VideoFile", with: {path: "${a}"}}\n' + DECODE)

    def path(**values: str) -> str:
        source = load(file, values).source
        assert source is not None
        return str(source.args["path"])

    assert path() == "file"
    monkeypatch.setenv("a", "environment")
    assert path() == "environment"
    assert path(a="given") == "given"


def test_a_variable_without_a_value_is_refused_by_name(tmp_path: Path) -> None:
    text = 'source: {use: "pipeline.edges.files:VideoFile", with: {path: "${INPUT_CLIP}"}}\n' + DECODE
    assert refused(text, tmp_path).endswith(
        "${INPUT_CLIP} has no value; give it on the command line or in the environment"
    )


def test_a_value_for_no_variable_is_refused(tmp_path: Path) -> None:
    text = "vars: {input: x}\n" + DECODE
    assert refused(text, tmp_path, {"inptu": "y"}).endswith("has no variable ['inptu']; its variables are ['input']")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a mapping with `stages:`"),
        ("- decode\n- detect\n", "must be a mapping with `stages:`"),
        ("just words", "must be a mapping with `stages:`"),
        ("stages: [\n", "is not YAML"),
        ("stages: {a: b: c}", "is not YAML"),
        ("vars: {}", "`stages`: Field required"),
        ("stages: {}", "the graph has no stages"),
        (DECODE + "\nsteges: {}", "`steges`: Extra inputs are not permitted"),
        (DECODE.replace("use", "uses"), "`stages.decode.use`: Field required"),
        ('stages: {decode: {use: "operators.decode:Decode", afetr: x}}', "`stages.decode.afetr`: Extra inputs are not"),
        ("stages: {decode: }", "`stages.decode`: Input should be a valid dictionary"),
        (DECODE + "\n1: x", "must be"),
        (DECODE + "\ncompute: {device: tpu}", "`compute.device`: Input should be 'auto', 'cpu' or 'cuda'"),
        (DECODE + "\nvars: [a]", "`vars` must be a mapping"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in refused(text, tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"cannot read the graph .*nowhere.yaml: No such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(GraphError, match=r"cannot read the graph .*: Is a directory"):
        load(tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    with pytest.raises(GraphError, match="is not YAML"):
        load(tmp_path / "picture.yaml")


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("{emotion: true}", "emotion needs a stated purpose"),
        ("{emotion: true, unmasking: true}", "emotion, unmasking needs a stated purpose"),
        ("{identification: true}", "identification needs a stated purpose"),
        (
            "{setting: workplace, purpose: service, emotion: true}",
            "emotion inference in the setting 'workplace' is refused",
        ),
        ("{setting: education, purpose: research, emotion: true}", "lawful there for medical or safety purposes only"),
        ("{purpose: fun}", "`policy.purpose`: Input should be"),
    ],
)
def test_what_the_policy_forbids_is_refused_before_any_work(policy: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(f"policy: {policy}\n{DECODE}")
    with pytest.raises(PipelineError) as error:
        load(file)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("purpose", ["medical", "safety"])
def test_emotion_at_work_is_let_through_for_medicine_and_safety(purpose: str, tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(f"policy: {{setting: workplace, purpose: {purpose}, emotion: true}}\n{DECODE}")
    assert load(file).policy.stated("emotion") == f"allowed:{purpose}"


def test_everything_sensitive_is_off_until_it_is_asked_for() -> None:
    policy = Policy()
    assert not any((policy.emotion, policy.identification, policy.unmasking))
    assert policy.faces == "blurred"
    assert policy.stated("emotion") == "off"


@pytest.mark.parametrize("file", GRAPHS, ids=[file.stem for file in GRAPHS])
def test_every_graph_that_is_shipped_fits_together(file: Path) -> None:
    assert load(file).stages
