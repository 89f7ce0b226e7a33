"""Pages quote what benchmarks wrote, with the decimals that their author chose."""

from docs.quote_figures import quoted

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
