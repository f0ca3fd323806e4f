"""The answer in BiGain Best of N: what it shows of a result made by hand."""

from tests.ui.conftest import one_front_end

KIND = "BiGainBestOfN"
LARGEST = str(2**64 - 1)  # which a number in a browser is not
ROWS = [
    {"seed": LARGEST, "score": "5", "dropped": "", "evaluations": 44},
    {"seed": "10", "score": "3", "dropped": "after trial 2", "evaluations": 44},
    {"seed": "8", "score": "", "dropped": "while sampling", "evaluations": 20},
]


@one_front_end
def test_the_best_seed_comes_first_with_what_was_saved(front_end):
    front_end.show(KIND)
    panel = front_end.panel("best_of_n")
    panel.get_by_text("After a run the best seed is named here").wait_for()
    front_end.page.evaluate(
        "rows => app.graph.nodes[0].onExecuted({bigain_best: [{rows, saved: 0.184}]})", ROWS
    )
    words = f"best: seed {LARGEST}18.4 % of the evaluations saved"
    assert panel.get_by_role("status").text_content() == words
    lines = panel.get_by_role("table", name="Seeds").locator("tbody tr").all()
    assert [line.get_by_role("cell").all_text_contents() for line in lines] == [
        [LARGEST, "5", "kept", "44"],
        ["10", "3", "after trial 2", "44"],
        ["8", "", "while sampling", "20"],
    ]
