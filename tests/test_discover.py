import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import stand_in
from conftest import ROOT
from PIL import Image
from stand_in import Settings, StandIn

from bridge_ebm import (
    bridges,
    data,
    discovery,
    generate,
    joints,
    langevin,
    lock,
    metrics,
    naming,
    plans,
    processes,
    sketch,
    structure,
)
from bridge_ebm.discovery import Request
from bridge_ebm.errors import InputError
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.plans import Plan, Span, Wishes
from bridge_ebm.studio import FRAMES, Held, Studio, open_studio, starts_of

HEIGHT, WIDTH = 48, 192
DEFAULT = plans.parse_mix([])


@pytest.fixture(scope="module")
def studio() -> Studio:
    return open_studio(StandIn())


@pytest.fixture(scope="module")
def real() -> metrics.Reference:
    return metrics.paper_reference(HEIGHT, WIDTH)


def drawn(seed, numbers, mix=DEFAULT, wishes=Wishes()):  # noqa: B008
    return [plans.draw(seed, k, mix, wishes, bridges.SUBTYPES) for k in numbers]


def composed(left, main, right, way="sides"):
    """A plan of spans, each a sub-type or (above, below)."""
    spans = [Span(span, span) if isinstance(span, str) else Span(*span) for span in (left, main, right)]
    return Plan(way, (spans[0], spans[1], spans[2]))


def collage(plan, softness=joints.JOINT):
    """The picture that a plan cuts out of the stand-in's bridges, if they are joined between their uprights."""
    parts = np.stack([np.asarray(StandIn().centre(name)[0]) for name in plan.subtypes])
    if plan.way in plans.MIX:
        plan = plan._replace(seams=joints.seams(plan, parts, WIDTH))
    return data.to_uint8((plans.masks(plan, HEIGHT, WIDTH, softness) * parts).sum(axis=0))


def assert_cut_from(picture, plan, softness=joints.JOINT):
    """A picture is the plan's collage; at the seams, which follow the companions' uprights, only nearly."""
    away = np.abs(picture.astype(int) - collage(plan, softness))
    seam = np.abs(np.abs(np.arange(WIDTH) + 0.5 - WIDTH / 2) - plans.PIER / plans.METRES * WIDTH) < 3
    assert away[:, ~seam].max() <= 12
    assert away.max() <= 60


def test_a_plan_is_a_function_of_seed_and_number():
    assert drawn(3, range(50)) == drawn(3, range(50))
    assert drawn(3, [17]) == drawn(3, range(50))[17:18]
    assert drawn(3, range(50)) != drawn(4, range(50))
    ways = [plan.way for plan in drawn(0, range(600))]
    for way, share in plans.MIX.items():
        assert ways.count(way) / 600 == pytest.approx(share / sum(plans.MIX.values()), abs=0.07)


def test_plans_of_the_default_mix_follow_the_rules_of_the_trade():
    for plan in drawn(0, range(400)):
        left, main, right = plan.spans
        assert main.above not in plans.PLAIN or main.below != "beam"
        for side in (left, right):
            towers = (side.above in plans.TOWERED) + (main.above in plans.TOWERED)
            assert towers != 1 or (side.above in plans.STAYED and main.above == "through_arch")
        assert (plan.way == "sides") == (left != right)
        assert len({name for span in plan.spans for name in span}) > 1


def test_wishes_are_met():
    both = Wishes(combine=("fan_cable_stayed", "through_arch"))
    for plan in drawn(0, range(40), plans.parse_mix(["spans", "sides"]), both):
        assert {name for span in plan.spans for name in span} == set(both.combine)
    spans = Wishes(main="deck_arch", sides=("through_arch", "beam"))
    for plan in drawn(0, range(40), (("sides", 1.0),), spans):
        left, main, right = plan.spans
        assert "deck_arch" in main and {"through_arch", "beam"} <= {*left, *right}
    alike = plans.parse_mix(["spans", "levels"])
    assert all(plan.spans[0] == plan.spans[2] for plan in drawn(0, range(40), alike, Wishes(symmetric=True)))
    # What the rules of the trade forbid is made when it is asked for.
    (odd,) = drawn(0, [0], (("spans", 1.0),), Wishes(main="beam", sides=("fan_cable_stayed",)))
    assert [span.above for span in odd.spans] == ["fan_cable_stayed", "beam", "fan_cable_stayed"]
    # A blend has no order: all seven partners of the one that is wished for.
    blends = drawn(0, range(60), (("blend", 1.0),), Wishes(main="vertical_suspension"))
    partners = [{plan.spans[1].above, plan.other} - {"vertical_suspension"} for plan in blends]
    assert set().union(*partners) == set(bridges.SUBTYPES) - {"vertical_suspension"}
    assert all(len(one) == 1 for one in partners)
    with pytest.raises(InputError, match="--ways=spans: nothing can be made so"):
        plans.check((("spans", 1.0),), Wishes(combine=("beam", "deck_arch", "through_arch")), bridges.SUBTYPES)


def test_default_mix_drops_the_ways_that_cannot_meet_the_wishes():
    mix = plans.possible(DEFAULT, Wishes(symmetric=True), bridges.SUBTYPES)
    assert [way for way, _ in mix] == ["spans", "levels"]


@pytest.mark.parametrize("height", [48, 128])
def test_masks_of_a_plan_are_a_partition_of_unity(height):
    plan = composed(("fan_cable_stayed", "deck_arch"), "through_arch", "beam")
    masks = plans.masks(plan, height, 4 * height)
    assert plan.subtypes == ("fan_cable_stayed", "through_arch", "beam", "deck_arch")
    np.testing.assert_allclose(masks.sum(0), 1, atol=1e-6)
    # The left span above the deck is the fan's, below it the deck arch's.
    assert masks[0][height // 4, 4].item() > 0.99 and masks[3][3 * height // 4, 4].item() > 0.99
    assert masks[1][height // 4, 2 * height].item() > 0.99 and masks[2][height // 4, -4].item() > 0.99


def test_designs_are_cut_from_companions(studio):
    plan = composed("fan_cable_stayed", "through_arch", ("harp_cable_stayed", "deck_arch"))
    alike = composed("deck_arch", "through_arch", "deck_arch", "spans")
    made = generate.make_group(studio, 0, 0, [plan, alike])
    for one, of in zip(made, (plan, alike), strict=True):
        assert_cut_from(one.picture, of)
        np.testing.assert_array_equal(one.frames[-1], one.picture)
        assert len(one.steps) == len(one.energies) == len(one.frames) == FRAMES
        assert list(one.steps) == sorted(set(one.steps))
        # A chain under bowls only descends, until ink has its price.
        assert np.diff(one.energies[:-1]).max() < 0.1 and one.energies[-1] < 1
    np.testing.assert_array_equal(made[1].picture, made[1].picture[:, ::-1])
    assert (made[0].picture != made[0].picture[:, ::-1]).any()


def test_designs_are_cut_along_the_piers_that_their_companions_have():
    names = ("harp_cable_stayed", "through_arch", "beam")
    parts = np.stack([np.asarray(StandIn().centre(name)[0])[:, : WIDTH // 2] for name in names])
    assert joints.pier(parts, names, WIDTH) == pytest.approx(83.0, abs=0.5)
    # Three pixels further out, of 1.68 m each; the beam's own pier, at 70 m, does not count.
    moved = np.concatenate([parts[:, :, 3:], parts[:, :, -3:]], axis=2)
    assert joints.pier(moved, names, WIDTH) == pytest.approx(83.0 + 3 * 1.683, abs=0.7)
    assert joints.pier(parts[2:], names[2:], WIDTH) == plans.PIER


def test_a_tower_that_only_a_side_span_has_is_kept_whole(studio):
    def tower_ink(picture):
        columns = np.abs(WIDTH / 2 - 0.5 - np.arange(WIDTH // 2) - plans.PIER / plans.METRES * WIDTH) < 4
        return picture[HEIGHT // 6 : HEIGHT * 3 // 8, : WIDTH // 2][:, columns].min(axis=0).astype(float).sum()

    whole = tower_ink(data.to_uint8(np.asarray(StandIn().centre("harp_cable_stayed")[0])))
    lone, shared = (
        generate.make_group(studio, 0, 0, [composed("harp_cable_stayed", main, "harp_cable_stayed", "spans")])[
            0
        ].picture
        for main in ("through_arch", "fan_cable_stayed")
    )
    assert tower_ink(lone) == pytest.approx(whole, rel=0.15)
    assert tower_ink(shared) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("whole", [False, True])
def test_of_uprights_that_do_not_stand_in_line_one_is_left(whole):
    plan = composed("harp_cable_stayed", "fan_cable_stayed", "harp_cable_stayed", "spans")
    harp, fan = (np.asarray(StandIn().centre(name)[0]) for name in plan.subtypes)
    for apart in (-2, -1, 1, 2):  # pixels that the main span's towers and piers stand further out
        moved = np.where(np.arange(WIDTH)[:, None] < WIDTH // 2, np.roll(fan, -apart, 1), np.roll(fan, apart, 1))
        parts = np.stack([harp, moved])
        seams = joints.seams(plan, parts if whole else parts[:, :, : WIDTH // 2], WIDTH)
        masks = plans.masks(plan._replace(seams=seams), HEIGHT, WIDTH, joints.JOINT)
        one = (masks * parts).sum(axis=0)
        owners = []
        for rows in (slice(HEIGHT // 6, HEIGHT * 3 // 8), slice(HEIGHT * 5 // 8, HEIGHT * 13 // 16)):
            both, left = (parts[:, rows] + 1).min(axis=1), (one[rows] + 1).min(axis=0)
            strays = np.abs(left - both).sum(axis=(1, 2)) / both.sum(axis=(1, 2))
            assert strays.min() < 0.1
            owners.append(strays.argmin())
        assert owners[0] == owners[1]  # the tower stands on its own pier
        np.testing.assert_allclose([seam[0] for seam in seams], [seam[1] for seam in seams], atol=0.3)


def test_a_pier_that_only_the_main_span_has_is_kept(studio):
    plan = composed("beam", "through_arch", "beam", "spans")
    picture = generate.make_group(studio, 0, 0, [plan])[0].picture
    arch = data.to_uint8(np.asarray(StandIn().centre("through_arch")[0]))
    rows = slice(HEIGHT * 5 // 8, HEIGHT * 13 // 16)
    columns = np.abs(np.abs(np.arange(WIDTH) + 0.5 - WIDTH / 2) - plans.PIER / plans.METRES * WIDTH) < 4
    assert picture[rows, columns].astype(int).sum() == pytest.approx(arch[rows, columns].astype(int).sum(), rel=0.1)


def test_regional_designs_come_from_all_energies_on_one_picture(studio):
    plan = composed("fan_cable_stayed", "through_arch", ("harp_cable_stayed", "deck_arch"), "regional")
    alike = composed("deck_arch", "through_arch", "deck_arch", "regional")
    made = generate.make_group(studio, 0, 0, [plan, alike])
    for one, of in zip(made, (plan, alike), strict=True):
        # The seams are softer than those of joined pictures.
        assert_cut_from(one.picture, of, 1.0)
        assert len(one.frames) == FRAMES and one.energies[0] > one.energies[-1]
    np.testing.assert_array_equal(made[1].picture, made[1].picture[:, ::-1])


def test_the_right_half_of_a_plan_is_the_left_half_of_the_mirrored_one(studio):
    plan = composed("fan_cable_stayed", "through_arch", "beam", "regional")._replace(seams=((80.0, 86.0), (78.0, 84.0)))
    mirrored = plan._replace(spans=plan.spans[::-1], seams=tuple(seam[::-1] for seam in plan.seams))
    for right, left in zip(generate._cells(studio, plan, True), generate._cells(studio, mirrored, False), strict=True):
        np.testing.assert_array_equal(right, left)


def test_a_design_takes_the_clean_set_of_companions(studio, monkeypatch):
    plan = composed("deck_arch", "through_arch", "deck_arch", "spans")
    pictures = np.stack([np.asarray(StandIn().centre(name)[0])[:, : WIDTH // 2] for name in studio.subtypes])
    parts = np.broadcast_to(pictures, (FRAMES, generate.NOISES, *pictures.shape)).copy()
    ghost = studio.subtypes.index("through_arch")
    parts[:, 1:, ghost, 2:4, 60:90] = -0.8  # a faint line in all sets but the first, in one of the two sub-types
    monkeypatch.setattr(generate, "_companions", lambda *_: parts)
    for one in generate.make_group(studio, 0, 0, [plan] * 4):
        assert_cut_from(one.picture, plan)
        assert one.picture[2:4, 60:90].max() == 0


def test_a_design_takes_companions_that_fit_each_other():
    plan = composed("beam", "through_arch", "beam", "spans")
    one, other = (np.asarray(StandIn().centre(name)[0]) for name in plan.subtypes)
    # [NOISES, K]: the second sub-type's deck lies lower than the first's but for one noise of three.
    parts = np.stack([np.stack([one, np.roll(other, lower, axis=0)]) for lower in (2, 0, 3)])
    none = np.zeros((3, 2), int)
    for turn in range(3):
        assert list(joints.fitting(plan, parts, none, turn)) == [turn, 1]
    flaws = none.copy()
    flaws[1, 1] = flaws[2, 0] = 1  # then the next best, and not its own turn
    assert list(joints.fitting(plan, parts, flaws, 0)) == [0, 0]
    assert joints.fitting(plan, parts, flaws, 2)[0] != 2


def test_companions_are_chosen_alike_at_any_size():
    plan = composed("beam", "through_arch", "beam", "spans")
    contrasts = np.array([0.6, 0.48, 0.72, 0.3]).reshape(4, 1, 1, 1, 1)
    small = contrasts * np.random.default_rng(0).uniform(-1, 1, (4, 2, HEIGHT, WIDTH, 1))
    large = small.repeat(2, axis=2).repeat(2, axis=3)
    none = np.zeros((4, 2), int)
    for turn in range(4):  # sums of squared differences grow with the picture, the price of another's turn does not
        assert list(joints.fitting(plan, small, none, turn)) == [turn, 3]
        assert list(joints.fitting(plan, large, none, turn)) == [turn, 3]


def test_piers_in_line_outweigh_other_differences_along_the_seams(monkeypatch):
    plan = composed("harp_cable_stayed", "fan_cable_stayed", "harp_cable_stayed", "spans")
    pier = round(WIDTH * (0.5 - plans.PIER / plans.METRES))
    parts = np.full((2, 2, HEIGHT, WIDTH, 1), -1.0)
    parts[:, :, HEIGHT // 2 :, [pier, -1 - pier]] = 1
    # Companions of the second sub-type: one with its piers elsewhere, and one in line, but with something above them.
    parts[0, 1, HEIGHT // 2 :] = -1
    parts[0, 1, HEIGHT // 2 :, [pier + 2, -3 - pier]] = 1
    parts[1, 1, : HEIGHT // 2, pier - 3 : pier + 4] = 1
    none = np.zeros((2, 2), int)
    assert list(joints.fitting(plan, parts, none, 0)) == [0, 1]
    monkeypatch.setattr(joints, "LINE", 0.0)
    assert list(joints.fitting(plan, parts, none, 0)) == [0, 0]


def test_a_group_is_the_same_alone_and_another_seed_is_not(studio):
    group = drawn(0, range(16))
    one, other = (generate.make_group(studio, 0, 3, group) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
    away = generate.make_group(studio, 1, 3, group)
    assert (away[0].frames[0] != one[0].frames[0]).any()


@pytest.mark.parametrize("way", ["blend", "either", "without", "subtype", "restart"])
def test_ways_that_mix_energies_over_the_whole_picture(way):
    buffer = np.full((3, HEIGHT, WIDTH // 2, 1), 0.5, np.float32)
    studio = open_studio(StandIn(), buffer=buffer)
    span = Span("through_arch", "through_arch")
    other = "" if way in ("subtype", "restart") else "harp_cable_stayed"
    (one,) = generate.make_group(studio, 0, 0, [Plan(way, (span, span, span), other=other)])
    mine, its = (data.to_unit(collage(composed(name, name, name))) for name in ("through_arch", "harp_cable_stayed"))
    end = data.to_unit(one.picture)
    if way == "blend":
        np.testing.assert_allclose(end, (mine + its) / 2, atol=0.03)
    elif way == "either":
        assert min(np.abs(end - mine).max(), np.abs(end - its).max()) < 0.05
        # The noise decides which of the two it is, and not the order in which they are named.
        spans = (Span(other, other),) * 3
        (turned,) = generate.make_group(studio, 0, 0, [Plan(way, spans, other="through_arch")])
        np.testing.assert_allclose(end, data.to_unit(turned.picture), atol=0.05)
    elif way == "without":
        # Away from the one not wanted, as far as the bound lets it.
        assert ((end - its) ** 2).sum() >= ((mine - its) ** 2).sum() - 1e-3
    elif way == "subtype":
        np.testing.assert_allclose(end, mine, atol=0.03)
    else:
        assert np.abs(data.to_unit(one.frames[0]) - 0.5).max() < 0.5


@pytest.mark.parametrize("symmetric", [True, False])
def test_held_pixels_are_those_of_the_drawing_in_every_frame(symmetric):
    mask, picture = np.zeros((HEIGHT, WIDTH, 1), bool), np.full((HEIGHT, WIDTH, 1), -1.0, np.float32)
    mask[:, 30:34] = True
    picture[10:20, 31] = data.to_unit(np.uint8([[200]]))[0, 0]
    if symmetric:
        mask, picture = mask | mask[:, ::-1], np.maximum(picture, picture[:, ::-1])
    studio = open_studio(StandIn(), Held(mask, picture))
    assert studio.half == symmetric
    span = Span("beam", "beam")
    group = [composed("fan_cable_stayed", "through_arch", "deck_arch"), Plan("subtype", (span, span, span))]
    wanted = data.to_uint8(picture)
    for one in generate.make_group(studio, 0, 0, group):
        for frame in one.frames:
            np.testing.assert_array_equal(frame[mask[..., 0]], wanted[mask[..., 0]])
        assert (one.picture[~mask[..., 0]] > 200).any()


def test_restarts_of_a_model_of_halves_fit_what_is_held():
    halves = np.full((3, HEIGHT, WIDTH // 2, 1), 0.5, np.float32)
    (plan,) = drawn(0, [0], (("restart", 1.0),))
    for columns, half in (((30, 161), True), ((30, 40), False)):
        mask = np.zeros((HEIGHT, WIDTH, 1), bool)
        mask[:, columns] = True
        studio = open_studio(StandIn(), Held(mask, np.where(mask, 1.0, -1.0)), halves)
        assert studio.half == half and studio.buffer.shape == (3, *studio.area)
        (one,) = generate.make_group(studio, 0, 0, [plan])
        assert (one.picture[:, columns] == 255).all()


def test_chains_of_a_model_with_a_coarse_one_begin_at_its_pictures(monkeypatch):
    begun = []
    walk = generate.run_chains

    def noting(studio, key, starts, *others):
        begun.append(np.asarray(starts))
        return walk(studio, key, starts, *others)

    monkeypatch.setattr(generate, "run_chains", noting)
    model = StandIn(coarse=StandIn(height=24, width=96))
    studio = open_studio(model)._replace(settings=Settings().langevin._replace(num_steps=2))
    grey = dict(zip(bridges.SUBTYPES, -0.5 + 0.1 * np.arange(8), strict=True))
    span = Span("fan_cable_stayed", "fan_cable_stayed")
    plan = composed("fan_cable_stayed", "through_arch", ("harp_cable_stayed", "deck_arch"))
    generate.make_group(studio, 0, 0, [plan, plan._replace(way="regional"), Plan("subtype", (span, span, span))])
    companions, regional, alone = begun
    rows = companions.reshape(generate.NOISES, 8, HEIGHT, -1)
    assert (rows == np.float32(list(grey.values()))[:, None, None]).all()
    assert regional[0, 0, 0, 0] == pytest.approx(grey["fan_cable_stayed"], abs=1e-3)
    assert regional[0, 0, -1, 0] == pytest.approx(grey["through_arch"], abs=1e-3)
    assert (alone == np.float32(grey["fan_cable_stayed"])).all()
    done = generate.complete(
        model, 0, ["beam", "deck_arch"], Held(np.zeros((2, HEIGHT, WIDTH, 1), bool), np.zeros((2, HEIGHT, WIDTH, 1)))
    )
    assert done.shape == (2, HEIGHT, WIDTH)
    assert [float(one.mean()) for one in begun[-1]] == pytest.approx([grey["beam"], grey["deck_arch"]], abs=1e-6)


class Seeded(StandIn):
    """A stand-in whose coarse pictures show the noise that they come from."""

    def start(self, key, count, subtype=None):
        return langevin.uniform_images(key, (count, self.height, self.width, 1))


def test_sub_types_completed_together_begin_at_coarse_pictures_of_their_own():
    model = Seeded(coarse=StandIn(height=24, width=96))
    studio, key = open_studio(model), jax.random.key(2)
    begun = np.asarray(starts_of(studio, key, ["beam", "deck_arch", "beam", "through_arch"]))
    assert len(np.unique(begun[:, 0, 0, 0])) == 4
    # The first as if it were alone: the starts of candidates are those that they were.
    np.testing.assert_array_equal(begun[[0, 2]], starts_of(studio, key, ["beam", "beam"]))
    np.testing.assert_array_equal(begun[[0, 2]], model.start(key, 2)[:, :, : WIDTH // 2])


def test_every_batch_of_regional_designs_has_noise_of_its_own(monkeypatch):
    keys = []
    walk = generate.run_chains

    def noting(studio, key, *others):
        keys.append(jax.random.key_data(key).tolist())
        return walk(studio, key, *others)

    monkeypatch.setattr(generate, "run_chains", noting)
    monkeypatch.setattr(generate, "GROUP", 2)
    studio = open_studio(StandIn())._replace(settings=Settings().langevin._replace(num_steps=2))
    plan = composed("fan_cable_stayed", "through_arch", "deck_arch", "regional")
    generate.make_group(studio, 3, 1, [plan, plan])  # left and right halves: two batches
    of_group = jax.random.fold_in(jax.random.key(3), 1)
    assert keys[0] == jax.random.key_data(jax.random.split(of_group)[1]).tolist() and len(keys) == 2
    assert keys[0] != keys[1]


def test_sub_types_of_the_users_own_are_composed(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "GROUP", 2)
    names = ("deck_arch", "footbridge")
    pictures = data.to_uint8(np.concatenate([np.asarray(StandIn().centre(name)) for name in names]))
    known = metrics.reference(pictures, np.arange(2), names)
    studio = open_studio(StandIn(Settings(subtypes=names)))
    (records,) = discovery.discover(tmp_path, studio, Request(0, DEFAULT[:1], Wishes()), 2, known)
    assert [set(record["how"].values()) & set(names) for record in records] == [set(names)] * 2
    assert all(record["sharp"] for record in records)
    discovery.write_results(tmp_path, records)


def test_a_model_of_whole_pictures_gives_the_same_designs():
    plan = composed("fan_cable_stayed", "through_arch", ("harp_cable_stayed", "deck_arch"))
    whole = open_studio(StandIn(Settings(mirror=False)))
    (one,) = generate.make_group(whole, 0, 0, [plan])
    assert_cut_from(one.picture, plan)


def test_a_model_without_subtypes_is_refused():
    with pytest.raises(ValueError, match="knows sub-types"):
        open_studio(StandIn(Settings(subtypes=())))


def named(image, real):
    return naming.regions(image, structure.analyse(image), real)


@pytest.mark.parametrize("subtype", bridges.SUBTYPES)
def test_real_bridges_get_their_own_names(subtype, real):
    for width_index in (1, 13):
        found = named(bridges.render(subtype, width_index, HEIGHT, WIDTH), real)
        assert naming.name(found) == naming.WHOLE[subtype]
        assert naming.families(found) in ((bridges.FAMILIES[subtype],), ())


@pytest.mark.parametrize(
    ("spans", "name", "families"),
    [
        (
            ("fan_cable_stayed", "through_arch", "fan_cable_stayed"),
            "through arch main span with fan stays on the side spans",
            ("arch", "cable-stayed"),
        ),
        (
            ("harp_cable_stayed", "vertical_suspension", "through_arch"),
            "suspension cable main span with harp stays on the left and a through arch on the right side span",
            ("arch", "cable-stayed", "suspension"),
        ),
        (
            (("harp_cable_stayed", "deck_arch"), ("fan_cable_stayed", "deck_arch"), ("harp_cable_stayed", "deck_arch")),
            "fan stays main span with harp stays on the side spans over deck arches",
            ("arch", "cable-stayed"),
        ),
        (
            ("deck_arch", ("through_arch", "deck_arch"), "deck_arch"),
            "main span of a through arch over a deck arch with a deck arch on the side spans",
            ("arch",),
        ),
        (
            ("v_pier_frame", ("through_arch", "v_pier_frame"), "v_pier_frame"),
            "through arch main span with a plain girder on the side spans on V piers",
            ("beam", "arch"),
        ),
    ],
)
def test_names_say_what_the_picture_shows(spans, name, families, real):
    found = named(collage(composed(*spans)), real)
    assert naming.name(found) == name
    assert naming.families(found) == families


def test_records_tell_designs_from_what_is_known_or_blurred(studio, real):
    plan = composed("deck_arch", "through_arch", "deck_arch", "spans")
    known = bridges.render("beam", 5, HEIGHT, WIDTH)
    soft = np.asarray(Image.fromarray(collage(plan)).resize((48, 12)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pictures = [collage(plan), known, soft, np.zeros_like(known)]
    made = [generate.Made(p, np.stack([p] * 6), (0, 1, 2, 3, 4, 5), (0.0,) * 6) for p in pictures]
    records = discovery.judge(made, [plan] * 4, 32, Request(7, DEFAULT, Wishes()), real)
    assert [discovery.is_design(record) for record in records] == [True, False, False, False]
    new, old, blurred, blank = records
    for fault in ({"sharp": False}, {"novel": False}, {"verdict": "B"}):
        assert not discovery.is_design(new | fault)
    assert (
        new["verdict"] == "A"
        and new["kind"] == "combination"
        and set(new["explained_by"])
        == {
            "deck_arch",
            "through_arch",
        }
    )
    assert new["how"] == {
        "way": "spans",
        "left": "deck_arch",
        "main": "through_arch",
        "right": "deck_arch",
        "seed": 7,
        "index": 32,
    }
    assert old["nearest"] == "beam" and not old["novel"] and old["explained_by"].keys() == {"beam"}
    assert not blurred["sharp"] and blank["verdict"] == "C" and blank["nearest"] is None
    json.dumps(records, allow_nan=False)


def write_candidates(folder, pictures, **changes):
    """Records of designs with these pictures, best first, in a folder."""
    (folder / "designs").mkdir()
    records = []
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"designs/{k}.png")
        record = {"index": k, "file": f"designs/{k}.png", "name": "one", "novel": True, "sharp": True, "verdict": "A"}
        record |= {"novelty": 0.2, "axial_share": 0.9 - 0.1 * k, "explained_by": {"beam": 0.5, "deck_arch": 0.5}}
        records.append(record | {"families": ["arch", "suspension"], "how": {"way": "spans"}} | changes)
    return records


def test_ranking_drops_near_duplicates_and_takes_the_best_of_each_name_first(tmp_path):
    thin, thick = (bridges.render("through_arch", k, HEIGHT, WIDTH) for k in (3, 6))
    others = [bridges.render(name, 5, HEIGHT, WIDTH) for name in ("deck_arch", "harp_cable_stayed")]
    records = write_candidates(tmp_path, [thin, thick, *others])
    records[3]["name"] = "another"
    records.append(records[0] | {"index": 4, "verdict": "B"})
    ranked = discovery.rank(tmp_path, records)
    assert [(r["index"], r["rank"], r["duplicate_of"]) for r in ranked] == [
        (0, 1, None),
        (3, 2, None),
        (2, 3, None),
        (1, None, "designs/0.png"),
        (4, None, None),
    ]
    counts = discovery.summary(ranked)
    assert counts["all"] == {
        "candidates": 5,
        "sharp": 5,
        "novel": 5,
        "A": 4,
        "designs": 4,
        "distinct": 3,
        "combine_families": 3,
    }


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_killed_run_continues_to_the_same_files(studio, real, tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "SHOWN", 3)
    monkeypatch.setattr(discovery, "GROUP", 8)  # so that there are two groups
    monkeypatch.setattr(generate, "NOISES", 2)
    request, num = Request(5, DEFAULT, Wishes()), 10
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    records = [r for group in discovery.discover(tmp_path / "whole", studio, request, num, real) for r in group]
    assert [record["index"] for record in records] == list(range(num))
    running = discovery.discover(tmp_path / "killed", studio, request, num, real)
    next(running)
    running.close()
    with (tmp_path / "killed" / discovery.CANDIDATES).open("a") as log:
        log.write(json.dumps(records[8]) + '\n{"index": 9, "fi')  # killed while it wrote the second group
    again = [r for group in discovery.discover(tmp_path / "killed", studio, request, num, real) for r in group]
    assert again == records
    # Two processes, one after the other, each with every second group.
    (tmp_path / "divided").mkdir()
    for number in (1, 0):
        with monkeypatch.context() as patch:
            patch.setattr(processes, "several", lambda: True)
            patch.setattr(processes, "number", lambda number=number: number)
            patch.setattr(processes, "share", lambda firsts, number=number: firsts[number::2])
            patch.setattr(processes, "wait_for_all", lambda where: (tmp_path / "divided/designs").mkdir(exist_ok=True))
            (tmp_path / "divided/frames").mkdir(exist_ok=True)
            (tmp_path / "divided" / discovery.CANDIDATES).touch()
            shares = [
                r for group in discovery.discover(tmp_path / "divided", studio, request, num, real) for r in group
            ]
    assert shares == [*records[8:], *records[:8]] and not list(tmp_path.glob("divided/candidates.?.jsonl"))
    for name in ("whole", "killed", "divided"):
        discovery.write_results(tmp_path / name, records)
    whole = files(tmp_path / "whole")
    assert whole == files(tmp_path / "killed") == files(tmp_path / "divided")
    assert {Path("gallery.html"), Path("designs.jsonl"), Path("summary.json")} <= whole.keys()
    # Fewer asked for than there are: the first ones.
    fewer = [r for group in discovery.discover(tmp_path / "killed", studio, request, 9, real) for r in group]
    assert fewer == records[:9]
    assert discovery.read_lines(tmp_path / "killed" / discovery.CANDIDATES) == records  # and the others are kept
    fewest = [r for group in discovery.discover(tmp_path / "killed", studio, request, 3, real) for r in group]
    assert fewest == records[:3] == discovery.candidates(tmp_path / "killed", 3)
    monkeypatch.setattr(discovery, "_made", lambda *_: iter(()))  # nothing is missing, so nothing is made again
    more = [r for group in discovery.discover(tmp_path / "killed", studio, request, num, real) for r in group]
    assert more == records


def test_a_folder_of_another_request_is_refused(tmp_path):
    model, request = StandIn(params=np.arange(3.0)), Request(5, DEFAULT, Wishes())
    discovery.claim(tmp_path, model, request, None)
    discovery.claim(tmp_path, model, request, None)
    for changed, name in (
        ((model, request._replace(seed=6), None), "seed"),
        ((StandIn(params=np.ones(3)), request, None), "model_crc32"),
        ((model, request._replace(wishes=Wishes(main="beam")), None), "main"),
        ((model, request, Held(np.ones((2, 2), bool), np.ones((2, 2)))), "keep_crc32"),
        ((model._replace(coarse=StandIn(params=np.ones(2))), request, None), "coarse_crc32, sampler"),
        ((model._replace(settings=Settings(langevin=LangevinSettings(80, 0.03, 0.0, 1e3))), request, None), "sampler"),
    ):
        with pytest.raises(InputError, match=f"another {name}; name a fresh folder"):
            discovery.claim(tmp_path, *changed)
    (tmp_path / discovery.REQUEST).write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        discovery.claim(tmp_path, model, request, None)


def test_a_coarse_model_that_is_gone_or_draws_in_another_way_is_another_request(tmp_path):
    model, request = StandIn(coarse=StandIn(height=24, width=96, params=np.ones(2))), Request(5, DEFAULT, Wishes())
    discovery.claim(tmp_path, model, request, None)
    slower = model.coarse._replace(settings=Settings(langevin=LangevinSettings(80, 0.03, 0.0, 1e3)))
    for coarse, names in ((None, "coarse_crc32, sampler"), (slower, "sampler")):
        with pytest.raises(InputError, match=f"another {names}; name a fresh folder"):
            discovery.claim(tmp_path, model._replace(coarse=coarse), request, None)


def test_folders_of_before_samplers_were_noted_go_on(tmp_path):
    plain, request, path = StandIn(params=np.arange(3.0)), Request(5, DEFAULT, Wishes()), tmp_path / discovery.REQUEST
    cascade = plain._replace(coarse=StandIn(params=np.ones(2)))
    for model, other, left_out in ((plain, cascade, ("sampler", "coarse_crc32")), (cascade, plain, ("sampler",))):
        path.unlink(missing_ok=True)
        discovery.claim(tmp_path, model, request, None)
        record = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in record.items() if name not in left_out}))
        with pytest.raises(InputError, match="another coarse_crc32; name a fresh folder"):
            discovery.claim(tmp_path, other, request, None)
        discovery.claim(tmp_path, model, request, None)
        assert json.loads(path.read_text()) == record


def test_the_tolerance_of_a_model_is_not_that_of_its_candidates_but_of_its_coarse_models(tmp_path):
    patient = Settings(langevin=LangevinSettings(40, 0.03, 0.0, 1e3, 0.5))
    plain, request = StandIn(coarse=StandIn(params=np.ones(2))), Request(5, DEFAULT, Wishes())
    assert open_studio(plain._replace(settings=patient)).settings.tolerance == 0
    discovery.claim(tmp_path, plain, request, None)
    # As folders name their samplers that are older than tolerances.
    assert json.loads((tmp_path / discovery.REQUEST).read_text())["sampler"] == [[40, 0.03, 0.0, 1e3]] * 2
    discovery.claim(tmp_path, plain._replace(settings=patient), request, None)
    with pytest.raises(InputError, match="another sampler; name a fresh folder"):
        discovery.claim(tmp_path, plain._replace(coarse=plain.coarse._replace(settings=patient)), request, None)


def test_a_drawing_holds_its_ink_and_a_transparent_one_all_that_is_opaque(tmp_path):
    drawing = np.full((HEIGHT, WIDTH), 255, np.uint8)
    drawing[24], drawing[30, :5] = 0, 240
    Image.fromarray(drawing).save(tmp_path / "ink.png")
    held = sketch.read_held(tmp_path / "ink.png", HEIGHT, WIDTH)
    assert held.mask.sum() == WIDTH and held.mask[24].all() and (held.picture[24] == 1).all()
    Image.fromarray(255 - drawing).save(tmp_path / "bright.png")
    np.testing.assert_array_equal(sketch.read_held(tmp_path / "bright.png", HEIGHT, WIDTH).picture, held.picture)
    clear = np.stack([drawing, np.where(np.arange(WIDTH) < 100, 255, 0) * np.ones((HEIGHT, 1))], -1).astype(np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    held = sketch.read_held(tmp_path / "clear.png", HEIGHT, WIDTH)
    assert held.mask[:, :100].all() and not held.mask[:, 100:].any()
    opaque = sketch.read_held(tmp_path / "ink.png", HEIGHT, WIDTH)
    for name in ("ink", "bright"):  # an alpha channel in which nothing is clear changes nothing
        Image.open(tmp_path / f"{name}.png").convert("RGBA").save(tmp_path / "opaque.png")
        again = sketch.read_held(tmp_path / "opaque.png", HEIGHT, WIDTH)
        np.testing.assert_array_equal(again.mask, opaque.mask)
        np.testing.assert_array_equal(again.picture, opaque.picture)
    assert held.picture[0, 0] == -1 and held.picture[24, 0] == 1
    for name in ("ink", "clear"):  # a drawing of another size is reduced
        exact = sketch.read_held(tmp_path / f"{name}.png", HEIGHT, WIDTH)
        small = Image.open(tmp_path / f"{name}.png")
        small.resize((3 * WIDTH, 3 * HEIGHT), Image.Resampling.NEAREST).save(tmp_path / "large.png")
        reduced = sketch.read_held(tmp_path / "large.png", HEIGHT, WIDTH)
        np.testing.assert_array_equal(reduced.mask, exact.mask)
        np.testing.assert_array_equal(reduced.picture[reduced.mask[..., 0]], exact.picture[exact.mask[..., 0]])


def test_sketches_are_completed_around_what_is_drawn():
    names = ["fan_cable_stayed", "deck_arch", "beam"]
    whole = np.concatenate([np.asarray(StandIn().centre(name)) for name in names])
    mask = np.zeros(whole.shape, bool)
    mask[:, :, :70] = True  # not symmetric, so the chains run on whole pictures
    flipped = np.where(mask, -whole, -1.0)
    done = generate.complete(StandIn(), 0, names, Held(mask, flipped))
    np.testing.assert_array_equal(done[mask[..., 0]], data.to_uint8(flipped)[mask[..., 0]])
    away = np.abs(done.astype(int) - data.to_uint8(whole))
    assert away[~mask[..., 0]].max() <= 12


def test_the_command_completes_a_sketch(tmp_path):
    command = [sys.executable, ROOT / "experiments" / "complete.py", f"--out={tmp_path}", "--trials=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "complete.json").read_text())
    assert sum(record["verdicts"].values()) == len(record["trials"]) == 1
    rows = 255 - np.asarray(Image.open(tmp_path / "complete.png")).astype(int)
    sketch, completed = rows[4:52, 4:196], rows[4:52, 200:392]
    drawn = sketch > 0.1 * 255
    assert drawn.any()
    np.testing.assert_array_equal(completed[drawn], sketch[drawn])


def test_drawings_that_cannot_be_held_are_refused(tmp_path):
    Image.new("L", (WIDTH, 40), 255).save(tmp_path / "size.png")
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    for name, message in (
        ("size", "192 x 40 pixels are not in the proportions of the model's pictures; crop it"),
        ("empty", "nothing is drawn in it"),
        ("broken", "not a whole PNG, JPEG, BMP or TIFF picture"),
        ("none", "No such file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            sketch.read_held(tmp_path / f"{name}.png", HEIGHT, WIDTH)
        assert str(caught.value).startswith("--keep=") and "\n" not in str(caught.value)


START = (
    "import cli, discover, stand_in; from absl import flags; discover.discovery.SHOWN = 2; "
    "from bridge_ebm.settings import TrainSettings; discover.models.training_of = lambda name: TrainSettings(); "
    "discover.bridge_ebm.load_model = lambda name: stand_in.StandIn()\n"
)


def run_program(program, *flags):
    """A Python program after `START`, which gives experiments/discover.py the stand-in for every model."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'experiments'}"}
    command = [sys.executable, "-c", START + program, "--model=stand_in", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def run_command(*flags):
    return run_program("cli.run(discover.main)", *flags)


def test_the_command_writes_its_folder_and_a_second_run_adds_nothing(tmp_path):
    flags = [f"--out={tmp_path / 'out'}", "--num=16", "--combine=deck_arch,through_arch", "--symmetric", "--seed=2"]
    done = run_command(*flags)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    records = discovery.read_lines(out / discovery.DESIGNS)
    assert len(records) == 16 == len(list((out / "designs").iterdir()))
    assert all((out / record["frames"]).exists() for record in records if record["frames"])
    assert records[0]["rank"] == 1 and discovery.is_design(records[0])
    assert np.asarray(Image.open(out / records[0]["frames"])).shape == (FRAMES * HEIGHT, WIDTH)
    for record in records:
        picture = np.asarray(Image.open(out / record["file"]))
        np.testing.assert_array_equal(picture, picture[:, ::-1])
    assert "all three" in done.stdout and str(out / "gallery.html") in done.stdout
    assert json.loads((out / "summary.json").read_text())["all"]["candidates"] == 16
    before = files(out)
    again = run_command(*flags)
    assert again.returncode == 0 and files(out) == before


def test_a_second_discovery_in_the_folder_of_one_that_runs_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with lock.held(out, lock.DISCOVERY):
        done = run_command(f"--out={out}", "--num=1")
        assert [path.name for path in out.iterdir()] == ["discover.lock"]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"--out={out}: process {os.getpid()} on" in done.stderr.strip().splitlines()[-1]
    assert done.stderr.strip().endswith("makes designs there; wait for it, stop it, or use a fresh --out")


REFUSED = {
    "--combine=beam,cable": "--combine=beam,cable: no sub-type 'cable'; choose from beam, v_pier_frame",
    "--main_span=arch": "--main_span=arch: no sub-type 'arch'",
    "--side_spans=beam,beam,beam": "one sub-type, or two",
    "--ways=spans,magic": "no way 'magic'; choose from spans, levels, sides, regional",
    "--ways=restart": "--ways=restart: needs a training's work directory with a replay buffer as --model",
    "--ways=restart --combine=beam": "--ways=restart: nothing can be made so with these wishes",
    "--keep=none.png": "--keep=none.png: cannot be read",
    "--temperature=nan": "--temperature=nan",
}


def test_flags_that_cannot_be_are_refused_in_one_line(tmp_path):
    # One process for all of them: what the command prints after "error:" is the text of the InputError.
    program = f"""
for asked in {list(REFUSED)!r}:
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS(["discover", "--model=stand_in", "--out={tmp_path / "out"}", *asked.split()])
    try:
        discover.main()
    except discover.InputError as error:
        print(error)
"""
    done = run_program(program)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(REFUSED)
    for line, message in zip(lines, REFUSED.values(), strict=True):
        assert message in line
    assert not (tmp_path / "out").exists()
    process = run_command("--combine=beam,cable", f"--out={tmp_path / 'out'}")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.strip().splitlines()[-1].endswith("diagonal_suspension")


def test_stand_in_is_what_it_says():
    image = data.to_unit(bridges.render("through_arch", stand_in.WIDTH_INDEX, HEIGHT, WIDTH))[None]
    assert float(StandIn().energy("through_arch")(image)[0]) == 0
