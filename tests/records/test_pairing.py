"""Pairing by time and study: stated cases at the ends of every window, and plain loops over random events."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medcl.errors import DataError
from medcl.records.pairing import admission_window, nearest_within, same_study, subjects_apart

ADMITTED = pd.Timestamp("2150-03-01 12:00")
ITEMS = ["50912", "51221"]


def at(hours: float) -> pd.Timestamp:
    return ADMITTED + pd.Timedelta(hours=hours)


def events(*rows: tuple[str, float, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["subject", "time", "id"])
    return table.assign(time=pd.to_datetime([at(hours) for hours in table["time"]]))


def labs(*rows: tuple[str, float, str, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["subject", "time", "item", "value"])
    return table.assign(time=pd.to_datetime([at(hours) for hours in table["time"]]))


ADMISSIONS = events(("s1", 0, "h1"))
LABS = labs(("s1", 0, "50912", 1.5))
ECGS = events(("s1", 0, "e1"))
FILMS = events(("s1", 30, "x1"))
SECOND = 1 / 3600


@pytest.mark.parametrize(
    ("hours", "kept"), [(-24 - SECOND, False), (-24, True), (0, True), (24, True), (24 + SECOND, False)]
)
def test_the_ends_of_the_windows_of_ecg_and_labs(hours: float, kept: bool) -> None:
    found = admission_window(ADMISSIONS, events(("s1", hours, "e1")), LABS, FILMS, ITEMS)
    assert len(found.events) == kept
    found = admission_window(ADMISSIONS, ECGS, labs(("s1", hours, "50912", 1.5)), FILMS, ITEMS)
    assert len(found.events) == kept


@pytest.mark.parametrize(
    ("hours", "kept"), [(24, False), (24 + SECOND, True), (72, True), (72 + SECOND, False), (0, False)]
)
def test_the_ends_of_the_window_of_radiographs(hours: float, kept: bool) -> None:
    found = admission_window(ADMISSIONS, ECGS, LABS, events(("s1", hours, "x1")), ITEMS)
    assert len(found.events) == kept


def test_the_earliest_of_each_is_taken() -> None:
    found = admission_window(
        ADMISSIONS,
        events(("s1", 5, "late"), ("s1", -3, "b"), ("s1", -3, "a"), ("s1", -30, "before"), ("s2", -5, "other")),
        labs(
            ("s1", 2, "51221", 40), ("s1", -2, "51221", 35), ("s1", -9, "51221", np.nan), ("s1", 0, "99999", 1), ("s2", 0, "50912", 9)
        ),
        events(("s1", 60, "late"), ("s1", 30, "first"), ("s1", 10, "early")),
        ITEMS,
    )  # fmt: skip
    assert found.events.to_dict("records") == [{"subject": "s1", "admission": "h1", "ecg": "a", "radiograph": "first"}]
    assert list(found.labs.columns) == ITEMS
    assert found.labs.iloc[0].tolist()[1] == 35
    assert np.isnan(found.labs.iloc[0, 0])


def test_an_admission_without_one_of_the_three_is_left_out() -> None:
    nothing = events()
    for given in ((nothing, LABS, FILMS), (ECGS, labs(("s1", 0, "99", 1.0)), FILMS), (ECGS, LABS, nothing)):
        found = admission_window(ADMISSIONS, *given, ITEMS)
        assert len(found.events) == len(found.labs) == 0


def random_events(draw: np.random.Generator, count: int, prefix: str, span: float = 200) -> pd.DataFrame:
    hours = draw.integers(0, int(span), count)
    return events(*[(f"s{draw.integers(8)}", float(hours[n]), f"{prefix}{n:03}") for n in range(count)])


def test_admissions_against_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    admissions, ecgs, films = (random_events(draw, n, p) for n, p in ((40, "h"), (60, "e"), (60, "x")))
    values = random_events(draw, 120, "l").assign(
        item=draw.choice([*ITEMS, "7"], 120), value=draw.permutation(120).astype(float)
    )
    found = admission_window(admissions, ecgs, values, films, ITEMS)
    expected, table = [], []
    for row in admissions.sort_values(["time", "id"]).itertuples():

        def within(events: pd.DataFrame, low: float, high: float, row: object = row) -> pd.DataFrame:
            hours = (events["time"] - row.time) / pd.Timedelta(hours=1)  # type: ignore[attr-defined]
            inside = events[(events["subject"] == row.subject) & (hours >= low) & (hours <= high)]  # type: ignore[attr-defined]
            return inside.sort_values(["time", "value" if "value" in inside else "id"])

        ecg, film, lab = within(ecgs, -24, 24), within(films, 24.001, 72), within(values, -24, 24)
        firsts = [lab[lab["item"] == item]["value"].head(1).tolist() for item in ITEMS]
        if len(ecg) and len(film) and any(firsts):
            expected.append((row.subject, row.id, ecg["id"].iloc[0], film["id"].iloc[0]))
            table.append([value[0] if value else np.nan for value in firsts])
    assert 5 < len(expected) < 40
    assert list(found.events.itertuples(index=False, name=None)) == expected
    np.testing.assert_array_equal(found.labs.to_numpy(), table)


def test_nearest_and_all_against_a_plain_loop() -> None:
    draw = np.random.default_rng(1)
    films, ecgs = random_events(draw, 50, "x", 5000), random_events(draw, 50, "e", 5000)
    pairs = {
        (film.subject, film.id, ecg.id): (abs(film.time - ecg.time), ecg.time)
        for film in films.itertuples()
        for ecg in ecgs.itertuples()
        if film.subject == ecg.subject and abs(film.time - ecg.time) <= pd.Timedelta(days=60)
    }
    found = nearest_within(films, ecgs, keep="all")
    assert list(found.itertuples(index=False, name=None)) == sorted(pairs)
    best: dict[str, tuple[str, str, str]] = {}
    for key in pairs:
        if key[1] not in best or (*pairs[key], key) < (*pairs[best[key[1]]], best[key[1]]):
            best[key[1]] = key
    nearest = nearest_within(films, ecgs)
    assert 30 < len(nearest) < len(found)
    assert list(nearest.itertuples(index=False, name=None)) == sorted(best.values())


def test_sixty_days_are_inclusive_and_ties_take_the_earlier() -> None:
    film = events(("s1", 0, "x"))
    assert len(nearest_within(film, events(("s1", 60 * 24, "e")))) == 1
    assert len(nearest_within(film, events(("s1", 60 * 24 + SECOND, "e")))) == 0
    assert len(nearest_within(film, events(("s2", 0, "e")))) == 0
    assert nearest_within(film, events(("s1", 5, "after"), ("s1", -5, "before")))["right"].tolist() == ["before"]
    assert nearest_within(film, events(("s1", 5, "after"), ("s1", -5, "before")), keep="all")["right"].tolist() == [
        "after",
        "before",
    ]


IMAGES = pd.DataFrame({"study": ["s2", "s1", "s1", "s3", "s1"], "id": ["d", "c", "a", "z", "b"]})
REPORTS = pd.DataFrame({"study": ["s1", "s2", "s9"], "id": ["r1", "r2", "r9"]})


def test_images_meet_the_report_of_their_study() -> None:
    found = same_study(IMAGES, REPORTS)
    assert found.to_numpy().tolist() == [["s1", "a", "r1"], ["s1", "b", "r1"], ["s1", "c", "r1"], ["s2", "d", "r2"]]
    assert same_study(IMAGES, REPORTS, keep="first")["image"].tolist() == ["a", "d"]
    drawn = [same_study(IMAGES, REPORTS, keep="random", seed=seed)["image"].tolist() for seed in range(40)]
    assert drawn == [same_study(IMAGES, REPORTS, keep="random", seed=seed)["image"].tolist() for seed in range(40)]
    assert {row[0] for row in drawn} == {"a", "b", "c"}
    assert {row[1] for row in drawn} == {"d"}
    with pytest.raises(ValueError, match="needs a seed"):
        same_study(IMAGES, REPORTS, keep="random")
    with pytest.raises(DataError, match="study s1 has more than one report"):
        same_study(IMAGES, REPORTS.assign(study="s1"))


def test_subjects_are_on_one_side() -> None:
    table = pd.DataFrame(
        {
            "subject": ["a", "a", "a", "b", "b", "c", "d"],
            "split": ["train", "validation", "test", "test", "validation", "test", "train"],
        }
    )
    kept = table[subjects_apart(table["subject"], table["split"])]
    assert kept.to_numpy().tolist() == [["a", "train"], ["b", "validation"], ["c", "test"], ["d", "train"]]
    with pytest.raises(DataError, match="split 'validate' is none of train, validation, test"):
        subjects_apart(table["subject"], table["split"].replace("validation", "validate"))


def test_tables_that_cannot_be_paired(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="left: has no column time; it has subject, id"):
        nearest_within(ECGS.drop(columns="time"), FILMS)
    with pytest.raises(DataError, match=r"right: column time holds .*, not times"):
        nearest_within(ECGS, FILMS.assign(time="2150-01-01"))
    with pytest.raises(DataError, match="left: id e1 stands there twice"):
        nearest_within(pd.concat([ECGS, ECGS]), FILMS)
    numbered = [table.assign(subject=7) for table in (ADMISSIONS, ECGS, LABS, FILMS)]
    found = admission_window(numbered[0], ECGS.assign(subject="7"), numbered[2].assign(item=50912), numbered[3], ITEMS)
    assert found.events["subject"].tolist() == ["7"]
    timeless = pd.concat([FILMS, events(("s1", 0, "x2")).assign(time=pd.NaT)])
    assert nearest_within(ECGS, timeless)["right"].tolist() == ["x1"]
    assert "1 of 2 have no time" in caplog.text
