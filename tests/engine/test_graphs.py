"""Which decode steps are captured, and what comes of one that cannot be."""

from __future__ import annotations

from engine.fake_model import drain, expected_output, make_engine, make_request, output_of

from llmplug.engine.graphs import DecodeGraphs, EagerGraphs, Step


def test_a_capture_that_fails_leaves_the_steps_as_they_were(caplog) -> None:
    class NoGraphs:
        def __init__(self) -> None:
            self.num_tries = 0

        def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
            self.num_tries += 1
            raise RuntimeError("an op waits for the device")

    graphs = NoGraphs()
    engine = make_engine(graphs=graphs)
    for number in range(6):
        engine.add(make_request(str(number), [number], max_tokens=10 + number))
    found = drain(engine)
    for number in range(6):
        assert output_of(found[str(number), 0]) == expected_output([number], 10 + number)
    assert graphs.num_tries == 1
    assert [record.message for record in caplog.records] == [
        "steps cannot be captured; they are launched op by op"
    ]


def test_rows_and_contexts_are_rounded_up_to_few() -> None:
    steps = DecodeGraphs(EagerGraphs(), max_rows=50, context_length=3000)
    rounded = [steps.round_rows(n) for n in range(1, 51)]
    assert all(a >= n for n, a in enumerate(rounded, 1))
    assert sorted(set(rounded)) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 50]
    bounds = [steps.round_context(n) for n in (1, 256, 257, 513, 2048, 2049, 3000)]
    assert bounds == [256, 256, 512, 1024, 2048, 3000, 3000]
