"""Pages quote what benchmarks wrote, with the decimals that their author chose."""

from docs.quote_figures import CONDITIONS, FIDELITY, quoted, quoted_downstream, quoted_fidelity

PAGE = """In a sentence 1.50 stays.

| what | figure | value |
|---|---|---:|
| end to end | `factory/rate` | 1.50 |
| shards | `shards` | 9 |
"""


def test_rows_take_the_figures_and_keep_their_decimals():
    found = quoted(PAGE, {"factory/rate": {"value": 2.346}, "shards": {"value": 20000}})
    assert "| end to end | `factory/rate` | 2.35 |" in found
    assert "| shards | `shards` | 20,000 |" in found
    assert found.startswith("In a sentence 1.50 stays.")
    assert quoted(found, {"factory/rate": {"value": 2.346}, "shards": {"value": 20000}}) == found


def test_the_table_of_fidelity_takes_its_figures_and_keeps_its_rows():
    table = (
        "| photographs by | method | PSNR |\n|---|---|---:|\n| libraw_auto (7) | aura | 1.0 | - | 0 | 0 | 0 | 3% |\n"
    )
    values = dict(zip(FIDELITY, (35.26, 27.0, 0.9512, 0.056, 0.0312, 4.21, 0.134), strict=True))
    figures = {f"libraw_auto/aura/{metric}": {"value": value} for metric, value in values.items()}
    found = quoted_fidelity(table, figures)
    assert found.splitlines()[2] == "| libraw_auto (7) | aura | 35.3 | 27.0 | 0.951 | 0.056 | 0.031 | 4.2 | 13% |"
    assert found.splitlines()[:2] == table.splitlines()[:2]


def test_the_tables_of_denoisers_take_their_figures_and_leave_the_words():
    table = "| RAW of real files | `real` | 1 | 2 | 3 | 4 | 5 |\n"
    table += "| over | `a_minus_b_db` | 0.10 | 0.20 | at least 0.3: not met |\n"
    figures = {f"real/{condition}": {"value": 40 + place} for place, condition in enumerate(CONDITIONS)}
    found = quoted_downstream(table, figures | {"a_minus_b_db": {"value": -0.034, "spread": 0.128}})
    assert found.splitlines() == [
        "| RAW of real files | `real` | 40.00 | 41.00 | 42.00 | 43.00 | 44.00 |",
        "| over | `a_minus_b_db` | -0.03 | 0.13 | at least 0.3: not met |",
    ]
