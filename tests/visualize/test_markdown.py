import pytest
import tiny

from beit_jax.errors import UserError
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize import markdown, runs


def group(name, task, *results):
    return runs.Group(name, runs.report_of(tiny.config(task)), "", results=list(results))


def test_a_row_for_each_headline():
    arms = group("beit", "classify", {"top1": 0.5}, {"top1": 0.7})
    probe = group("probe", "probe", {"top1": 0.75, "best_layer": 3.0}, {"top1": 0.25, "best_layer": 2.0})
    tokenizer = group("tokenizer", "tokenizer", {"perplexity": 24.64, "loss": 1.0})
    assert markdown.markdown_table([tokenizer, arms, probe]).splitlines()[2:] == [
        "| tokenizer | codes in use (perplexity) | 24.6 |  |  |",
        "| beit | top-1, % | 60.0 | 14.1 | 50.0, 70.0 |",
        "| probe | linear probe of the best layer, top-1, % | 50.0 | 35.4 | 75.0, 25.0 |",
        "| probe | that layer |  |  | 3, 2 |",
    ]


def test_a_row_for_each_arm():
    groups = [
        group("tokenizer_dvae", "tokenizer", {"perplexity": 24.0}, {"perplexity": 26.0}),
        group("tokenizer_vqkd", "tokenizer", {"perplexity": 20.0}),
        group("probe_dvae", "probe", {"top1": 0.75, "best_layer": 3.0, "majority": 0.1}),
        group("supervised", "classify", {"top1": 1.0}),
        group("probe_from_scratch", "probe", {"top1": 0.5, "best_layer": 3.0, "majority": 0.1}),
    ]
    assert markdown.table_by_arm(groups).splitlines() == [
        "| arm | tokenizer: codes in use (perplexity) | probe: linear probe of the best layer, top-1, % |",
        "| --- | --- | --- |",
        "| dvae | 25.0 ± 1.4 | 75.0 |",
        "| vqkd | 20.0 |  |",
        "| from_scratch |  | 50.0 |",
    ]
    with pytest.raises(UserError, match="no stage has a name like STAGE_ARM"):
        markdown.table_by_arm(groups[3:4])


def test_only_the_named_part_of_a_page_changes(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\n<!-- begin b -->\n<!-- end b -->\nafter\n")
    markdown.replace_table(page, "a", "new")
    markdown.replace_table(page, "a", "newer")
    assert page.read_text() == (
        "before\n<!-- begin a -->\nnewer\n<!-- end a -->\n<!-- begin b -->\n<!-- end b -->\nafter\n"
    )
    for wrong in (page, tmp_path / "missing.md"):
        with pytest.raises(UserError, match="has no lines for the table"):
            markdown.replace_table(wrong, "c", "new")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        visualize.main(["report", str(tmp_path)])
