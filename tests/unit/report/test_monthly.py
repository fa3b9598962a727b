"""What a result saves every month: the figures of the report, times a number of queries."""

from promptintern.report.build import build_report
from promptintern.report.monthly import VOLUME, monthly_savings

from tests.unit.report.figures import facts, stage


def test_tokens_and_money_are_the_differences_times_the_volume() -> None:
    report = build_report(facts())
    monthly = monthly_savings(report)
    assert monthly is not None
    full, result = report.arms[0], report.arm("QueryOnly")
    assert result is not None and full.cost_per_thousand is not None and result.cost_per_thousand is not None
    tokens, money = monthly.anew
    assert tokens.each == full.prompt_tokens.mean - result.prompt_tokens.mean
    assert tokens.text == f"{round(tokens.each * VOLUME):,}"
    assert (money.unit, money.each) == ("USD", (full.cost_per_thousand - result.cost_per_thousand) / 1000)


def test_without_prices_only_tokens_are_saved() -> None:
    monthly = monthly_savings(build_report(facts(prices=False)))
    assert monthly is not None
    assert [saving.unit for saving in monthly.anew] == ["prompt tokens"]
    assert monthly.payback is None


def test_a_run_without_a_result_saves_nothing() -> None:
    run = facts(stopped_at=0, kept=None, result=None, stages=[stage(0, score=0.5, gate="failed")])
    assert monthly_savings(build_report(run)) is None


def test_the_training_pays_after_days() -> None:
    run = facts()
    assert run.prices is not None
    dear = run.model_copy(update={"prices": run.prices.model_copy(update={"device_per_hour": 360_000.0})})
    report = build_report(dear)
    monthly = monthly_savings(report)
    assert monthly is not None and monthly.payback is not None
    assert monthly.payback.queries == report.training.pays_from
    days, unit = monthly.payback.text.split(" ")
    assert unit == "days"
    assert float(days.replace(",", "")) >= 1


def test_a_cheap_training_pays_within_a_day() -> None:
    run = facts()
    assert run.prices is not None
    cheap = run.model_copy(update={"prices": run.prices.model_copy(update={"device_per_hour": 0.01})})
    monthly = monthly_savings(build_report(cheap))
    assert monthly is not None and monthly.payback is not None
    assert monthly.payback.text == "less than a day"
