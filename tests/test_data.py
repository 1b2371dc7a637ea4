"""Data sets: the recipes, the split, folders of every kind of picture, and what is refused."""

import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bridge_ebm import bridges, data, metrics, pictures, raster, recipes
from bridge_ebm.errors import InputError

GREY = bridges.render("fan_cable_stayed", 8, 96, 384)
SMALL = raster.area_average(GREY, 48, 192)


def read(path: Path, height: int = 48, width: int = 192) -> np.ndarray:
    return pictures.read_picture(path, height, width)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SMALL).save(root / name)


def refusal(path: Path) -> str:
    """The one line with which load_folder refuses."""
    with pytest.raises(InputError) as caught:
        data.load_folder(path, 48, 192)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message, "the remedy is missing"
    return message


def test_the_papers_recipe_counts_every_combination_once():
    plan = recipes.paper_plan(1200)
    assert len(set(plan)) == 1200
    assert {tuple(v[2:]) for v in plan} == {
        (r, x, y) for r in (-0.3, 0, 0.3) for x in (1, 1.012, 1.025, 1.038, 1.05) for y in (1, 1.025, 1.05, 1.075, 1.1)
    }
    assert np.bincount([v.base for v in plan]).tolist() == [75] * 16


@pytest.mark.parametrize("per_type", [1, 5, 16, 17, 40, 160, 1199])
def test_a_part_of_the_recipe_is_spread_evenly(per_type):
    plan = recipes.paper_plan(per_type)
    assert len(set(plan)) == per_type
    assert plan == sorted(plan) and set(plan) <= set(recipes.paper_plan(1200))
    counts = np.bincount([v.base for v in plan], minlength=16)
    assert counts.max() - counts.min() <= 1
    if per_type <= 16:
        assert all(v[2:] == (0.0, 1.0, 1.0) for v in plan)
    if per_type >= 160:  # ten augmentations a width reach every value of all three axes
        assert [len({v[axis] for v in plan}) for axis in (2, 3, 4)] == [3, 5, 5]


def test_more_than_the_recipe_has_is_refused():
    with pytest.raises(InputError, match="1 to 1200"):
        data.procedural(48, 192, per_type=1201)


def test_sixteen_pictures_are_the_base_pictures():
    dataset = data.procedural(48, 192, per_type=16)
    assert dataset.images.shape == (128, 48, 192) and dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == dataset.base.dtype == np.int32
    assert dataset.subtypes == bridges.SUBTYPES
    for image, label, base in zip(dataset.images, dataset.labels, dataset.base, strict=True):
        np.testing.assert_array_equal(image, bridges.render(bridges.SUBTYPES[label], int(base), 48, 192))


@pytest.mark.parametrize("recipe", ["paper", "varied"])
def test_the_same_arguments_give_the_same_bytes(recipe):
    first, again = (data.procedural(24, 96, recipe, 20, seed=5) for _ in range(2))
    assert first.images.tobytes() == again.images.tobytes()
    other = data.procedural(24, 96, recipe, 20, seed=6)
    assert (first.images.tobytes() == other.images.tobytes()) == (recipe == "paper")


def test_a_varied_picture_does_not_depend_on_how_many_are_made():
    few, many = data.procedural(24, 96, "varied", 3), data.procedural(24, 96, "varied", 60)
    np.testing.assert_array_equal(few.images.reshape(8, 3, 24, 96), many.images.reshape(8, 60, 24, 96)[:, :3])
    assert many.base.reshape(8, 60).tolist() == [list(range(60))] * 8


def test_augmentation_scales_and_turns_about_the_centre():
    dot = np.zeros((128, 512), np.uint8)
    dot[62:66, 354:358] = 255  # 100 pixels to the right of the centre

    def centre(rotation: float, scale_x: float, scale_y: float) -> tuple[float, float]:
        image = recipes.augmented(dot, [recipes.Variant(0, 0, rotation, scale_x, scale_y)])[0].astype(float)
        rows, columns = np.indices(image.shape) + 0.5
        return float((image * columns).sum() / image.sum()) - 256, float((image * rows).sum() / image.sum()) - 64

    assert centre(0, 1, 1) == pytest.approx((100, 0), abs=0.01)
    assert centre(0, 1.05, 1.1) == pytest.approx((105, 0), abs=0.1)
    across, down = centre(0.3, 1, 1)
    assert across == pytest.approx(100, abs=0.1) and abs(down) == pytest.approx(100 * np.sin(np.radians(0.3)), abs=0.1)
    assert down * centre(-0.3, 1, 1)[1] < 0


def test_sizes_beyond_the_papers_are_drawn_at_that_size():
    dataset = data.procedural(256, 1024, per_type=1)
    np.testing.assert_array_equal(dataset.images[0], bridges.render("beam", 0, 256, 1024))


@pytest.mark.parametrize("bad", [{"height": 0}, {"width": -1}, {"per_type": 0}, {"recipe": "free"}])
def test_procedural_refuses_bad_arguments(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        data.procedural(**{"height": 48, "width": 192, "per_type": 4, **bad})


@pytest.mark.parametrize("recipe", ["paper", "varied"])
def test_the_split_keeps_base_pictures_whole(recipe):
    dataset = data.procedural(12, 48, recipe, 48)
    parts = {part: data.split(dataset, part) for part in ("train", "validation", "test")}
    keys = {part: set(zip(d.labels.tolist(), d.base.tolist(), strict=True)) for part, d in parts.items()}
    assert not (keys["train"] & keys["test"] or keys["train"] & keys["validation"] or keys["validation"] & keys["test"])
    assert sum(len(d.images) for d in parts.values()) == len(dataset.images)
    assert [len(parts[part].images) for part in parts] == [8 * 36, 8 * 6, 8 * 6]
    assert all(set(d.labels.tolist()) == set(range(8)) for d in parts.values())
    assert data.split(dataset, "all") is dataset
    if recipe == "paper":
        assert {b for _, b in keys["test"]} == {6, 14} and {b for _, b in keys["validation"]} == {2, 10}


def test_the_split_carries_each_picture_with_its_label():
    dataset = data.procedural(12, 48, per_type=16)
    test = data.split(dataset, "test")
    for image, label, base in zip(*test[:3], strict=True):
        np.testing.assert_array_equal(image, bridges.render(bridges.SUBTYPES[label], int(base), 12, 48))


def test_the_neighbour_is_the_same_bridge_in_the_next_width():
    train = data.split(data.procedural(48, 192, per_type=64), "train")
    beside = data.neighbours(train)
    bases = sorted(set(train.base.tolist()))
    following = {base: bases[min(place + 1, len(bases) - 1)] for place, base in enumerate(bases)}
    np.testing.assert_array_equal(train.labels[beside], train.labels)
    assert all(train.base[there] == following[base] for base, there in zip(train.base.tolist(), beside, strict=True))
    np.testing.assert_array_equal(beside[train.base == 15], np.flatnonzero(train.base == 15))
    halfway = ((train.images.astype(int) + train.images[beside]) // 2).astype(np.uint8)
    sharp = np.all(metrics.in_range(metrics.definition(halfway), 48, 192), axis=0)
    assert sharp.mean() > 0.95  # of the pictures themselves .97


def test_other_drawings_are_seldom_neighbours():
    varied = data.procedural(48, 192, "varied", 12)
    assert (data.neighbours(varied) == np.arange(len(varied.images))).mean() > 0.9


def test_the_split_refuses_other_parts_and_empty_ones():
    dataset = data.procedural(12, 48, per_type=1)
    with pytest.raises(InputError, match="'dev'"):
        data.split(dataset, "dev")
    with pytest.raises(InputError, match="test part"):
        data.split(dataset, "test")


@pytest.mark.parametrize("xp", [np, jnp])
def test_scaling_goes_there_and_back(xp):
    every = xp.arange(256, dtype=xp.uint8).reshape(2, 8, 16)
    unit = data.to_unit(every)
    assert isinstance(unit, type(every))
    assert unit.shape == (2, 8, 16, 1) and unit.dtype == np.float32
    assert float(unit.min()) == -1 and float(unit.max()) == 1
    np.testing.assert_array_equal(data.to_uint8(unit), every)
    assert np.asarray(data.to_uint8(xp.asarray([[[-7.0], [0.01], [9.0]]]))).tolist() == [[0, 129, 255]]


def test_the_order_of_an_epoch_is_a_permutation_of_its_own():
    key = jax.random.key(3)
    order = jax.jit(data.epoch_order, static_argnames="size")
    first, again, later = order(key, 0, size=50), data.epoch_order(key, 0, 50), order(key, 1, size=50)
    assert first.dtype == jnp.int32 and sorted(first.tolist()) == list(range(50))
    assert first.tolist() == again.tolist() != later.tolist()


def image_of(kind: str) -> Image.Image:
    """The test picture as another mode of Pillow."""
    plain, white = Image.fromarray(GREY), Image.new("L", GREY.shape[::-1], 255)
    match kind:
        case "L":
            return plain
        case "1":
            return Image.fromarray(np.where(GREY > 127, 255, 0).astype(np.uint8)).convert("1")
        case "P":
            return plain.convert("P")
        case "I;16":
            return Image.fromarray(GREY.astype(np.uint16) * 257)
        case "F":
            return Image.fromarray(GREY.astype(np.float32) / 255)
        case "LA opaque":
            return Image.merge("LA", (plain, white))
        case "white on clear":
            return Image.merge("RGBA", (white, white, white, plain))
        case "black on clear":
            black = Image.new("L", plain.size, 0)
            return Image.merge("RGBA", (black, black, black, plain))
        case _:
            return plain.convert(kind)


@pytest.mark.parametrize(
    "kind, suffix",
    [
        *((kind, "png") for kind in ("L", "1", "P", "I;16", "RGB", "RGBA", "LA opaque", "white on clear")),
        ("black on clear", "png"),
        *((kind, "tif") for kind in ("L", "1", "I;16", "F", "RGB", "RGBA", "CMYK")),
        *((kind, "bmp") for kind in ("L", "1", "P", "RGB")),
        *((kind, "jpg") for kind in ("L", "RGB", "CMYK")),
        ("RGB", "JPEG"),
        ("L", "TIFF"),
    ],
)
@pytest.mark.parametrize("dark", [False, True], ids=["bright", "dark"])
def test_every_kind_of_picture_gives_the_same_array(tmp_path, kind, suffix, dark):
    image = image_of(kind)
    if dark and "clear" in kind:
        pytest.skip("both inks on a clear background are cases of their own")
    if dark:
        if kind in ("I;16", "F"):
            image = Image.fromarray((65535 if kind == "I;16" else np.float32(1)) - np.asarray(image))
        else:
            mode = image.mode
            image = Image.fromarray(255 - np.asarray(image.convert("L"))).convert(mode)
    path = tmp_path / f"picture.{suffix}"
    image.save(path)
    expected = raster.area_average(np.where(GREY > 127, 255, 0).astype(np.uint8), 48, 192) if kind == "1" else SMALL
    difference = np.abs(read(path).astype(int) - expected)
    assert difference.max() <= (30 if suffix.lower() in ("jpg", "jpeg") else 2)
    assert difference.mean() < 2


def test_a_colour_palette_with_a_clear_background(tmp_path):
    image = Image.new("P", GREY.shape[::-1])
    image.frombytes((GREY > 127).astype(np.uint8).tobytes())
    image.putpalette([250, 250, 250, 20, 30, 90])  # dark blue ink
    image.save(tmp_path / "p.png", transparency=0)
    assert np.abs(read(tmp_path / "p.png").astype(int) - SMALL).mean() < 8
    assert np.median(read(tmp_path / "p.png")) == 0


def test_pictures_of_any_size_come_out_at_the_size_asked_for(tmp_path):
    for size in [(20, 80), (48, 192), (200, 300), (1, 1)]:
        Image.fromarray(bridges.render("beam", 12, *size)).save(tmp_path / "a.png")
        image = read(tmp_path / "a.png")
        assert image.shape == (48, 192) and image.dtype == np.uint8
    Image.fromarray(bridges.render("beam", 12, 24, 96)).save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png").astype(int) - bridges.render("beam", 12, 48, 192)).mean() < 10


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[:, ::-1] // 2)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), SMALL)


def test_names_give_order_labels_and_base(tmp_path):
    put(tmp_path, *(f"zebra/{n}.png" for n in range(1, 33)), "beam/a.png", "Arch Bottom_bear/x.png", "apple/q.png")
    put(tmp_path, "Cable_Harp_shaped/x.png", ".hidden/x.png")
    (tmp_path / "beam" / "README.txt").write_text("not a picture")
    (tmp_path / "beam" / "Thumbs.db").write_bytes(b"\x00")
    (tmp_path / "beam" / "._a.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("nor is this")
    dataset = data.load_folder(tmp_path, 12, 48)
    assert dataset.subtypes == ("beam", "through_arch", "harp_cable_stayed", "apple", "zebra")
    assert np.bincount(dataset.labels).tolist() == [1, 1, 1, 1, 32]
    assert dataset.base[-32:].tolist() == [k // 2 for k in range(32)]
    assert [file.name for file in pictures.find_pictures(tmp_path)["zebra"]][8:11] == ["9.png", "10.png", "11.png"]


def test_no_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "none")


def test_a_file_for_a_folder(tmp_path):
    put(tmp_path, "a.png")
    assert "a.png: not a folder" in refusal(tmp_path / "a.png")


def test_an_empty_folder(tmp_path):
    assert "no sub-folders" in refusal(tmp_path)


def test_pictures_without_sub_folders(tmp_path):
    put(tmp_path, "a.png")
    assert "lie in no sub-folder" in refusal(tmp_path)


def test_a_sub_folder_without_pictures(tmp_path):
    put(tmp_path, "beam/a.png")
    (tmp_path / "arch").mkdir()
    (tmp_path / "arch" / "README.txt").write_text("later")
    assert "arch: no pictures" in refusal(tmp_path)


def test_two_folders_for_one_sub_type(tmp_path):
    put(tmp_path, "beam/a.png", "Beam Three_span/a.png")
    assert "second folder of the sub-type beam" in refusal(tmp_path)


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("keep", [0.02, 0.6])
def test_a_truncated_picture(tmp_path, suffix, keep):
    put(tmp_path, "beam/a.png", f"beam/b.{suffix}")
    cut(tmp_path / "beam" / f"b.{suffix}", keep)
    assert f"b.{suffix}: not a whole" in refusal(tmp_path)


def test_a_damaged_png(tmp_path):
    put(tmp_path, "beam/a.png")
    file = tmp_path / "beam" / "a.png"
    raw = bytearray(file.read_bytes())
    raw[60:90] = bytes(30)
    file.write_bytes(raw)
    assert "a.png: not a whole" in refusal(tmp_path)


def test_a_zero_byte_picture(tmp_path):
    put(tmp_path, "beam/a.png")
    (tmp_path / "beam" / "b.png").touch()
    assert "b.png: an empty file" in refusal(tmp_path)


def test_a_text_file_named_png(tmp_path):
    put(tmp_path, "beam/a.png")
    (tmp_path / "beam" / "b.png").write_text("a bridge, dark on white")
    assert "b.png: not a whole" in refusal(tmp_path)


def test_a_picture_that_cannot_be_opened(tmp_path):
    put(tmp_path, "beam/a.png")
    (tmp_path / "beam" / "b.png").symlink_to(tmp_path / "gone.png")
    assert "b.png: cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("side", [6400, 9800, 20000])  # ours, where Pillow warns, where Pillow refuses
def test_an_over_large_picture_is_refused_undecoded(tmp_path, side, monkeypatch):
    put(tmp_path, "beam/a.png")
    Image.new("1", (side, side)).save(tmp_path / "beam" / "b.png")
    monkeypatch.setattr(pictures, "_grey", lambda image: SMALL if image.size == (192, 48) else pytest.fail("decoded"))
    assert "b.png: more than 40,000,000 pixels" in refusal(tmp_path)


def test_pillow_is_left_as_it_was(tmp_path):
    put(tmp_path, "beam/a.png")
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    data.load_folder(tmp_path, 12, 48)
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("text", ["{", '{"base": 3}', '{"base": {"beam/a.png": "x"}}'])
def test_a_damaged_listing(tmp_path, text):
    put(tmp_path, "beam/a.png")
    (tmp_path / "dataset.json").write_text(text)
    assert "dataset.json: damaged" in refusal(tmp_path)


def test_a_picture_missing_from_the_listing(tmp_path):
    put(tmp_path, "beam/a.png", "beam/b.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"base": {"beam/a.png": 3}}))
    assert "b.png: not listed" in refusal(tmp_path)


def test_somebody_elses_dataset_json_is_ignored(tmp_path):
    put(tmp_path, "beam/a.png")
    (tmp_path / "dataset.json").write_text('{"title": "my bridges"}')
    assert data.load_folder(tmp_path, 12, 48).base.tolist() == [0]
