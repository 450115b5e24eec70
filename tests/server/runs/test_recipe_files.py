"""What a recipe from a page may name: packaged names, and what is below one folder, whatever links and dots say."""

from __future__ import annotations

import json

import pytest

from fedlora.config import AdapterSettings, DataSettings, ModelSettings, PublicDataSettings, Recipe, override
from fedlora.plugins.gate import open_to, opened_to
from fedlora.settings import SettingsError, parse
from server.dashboard.serve import Starting, pad_for
from server.runs.launch import RunLauncher, planned, resume, start
from server.runs.recipe_files import confined
from server.trust.provision import initialise


@pytest.fixture
def files(tmp_path):
    """A folder with a table, a folder of tables and a model; beside it what nobody may read."""
    root = tmp_path / "files"
    for folder in ("tables", "model"):
        (root / folder).mkdir(parents=True)
    for name in ("notes.csv", "tables/one.csv", "model/config.json"):
        (root / name).write_text("text,label\na,b\n")
    (tmp_path / "secret.csv").write_text("text,label\nthe token,x\n")
    (tmp_path / "beside").mkdir()
    (tmp_path / "files2").mkdir()
    return root


def naming(key: str, value: str) -> Recipe:
    """A recipe that names a file in one of the three places where one can."""
    if key == "model.id":
        return Recipe(model=ModelSettings(id=value))
    if key == "data.source":
        return Recipe(data=DataSettings(source=value))
    public = PublicDataSettings(source=value)
    return Recipe(adapter=AdapterSettings(kind="lora_xs", init="gradient", public=public))


KEYS = ("data.source", "adapter.public.source", "model.id")


def named_in(recipe: Recipe, key: str) -> str:
    public = recipe.adapter.public
    return {"model.id": recipe.model.id, "data.source": recipe.data.source}.get(key) or public.source


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_that_holds_a_path_is_among_them(key):
    """A recipe's other texts: columns, classes, names. Who adds a path adds it to `confined` and to this list."""

    def texts(model, prefix=""):
        for name, field in type(model).model_fields.items():
            value, path = getattr(model, name), f"{prefix}{name}"
            if hasattr(type(value), "model_fields"):
                yield from texts(value, f"{path}.")
            elif isinstance(value, str) and "Literal" not in str(field.annotation):
                yield path

    columns = {f"{where}.{name}" for where in ("data", "adapter.public") for name in ("text", "label")}
    others = columns | {"name", "model.device", "data.client_column", "strategy.name", "model.task", "train.optimizer"}
    others |= {"gate.refusal", "gate.compliance"}
    assert set(texts(naming(key, "x"))) - others <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "named",
    [
        "../secret.csv", "tables/../../secret.csv", "{outside}/secret.csv", "/etc/passwd", "/", "..", "../files2",
        "../beside", "~/x", "~root", "link", "chain/secret.csv", "circle", "tables/../notes.csv", "a\0b", "x" * 5000,
        "/proc/self/environ", "hub/../../secret.csv",
    ],
)  # fmt: skip
def test_what_leads_out_of_the_folder_is_refused(files, tmp_path, key, named):
    (files / "link").symlink_to(tmp_path / "secret.csv")
    (files / "chain").symlink_to(tmp_path)
    (files / "circle").symlink_to(files / "circle")
    named = named.format(outside=tmp_path)
    recipe = naming(
        key, f"./{named}" if key == "model.id" and named in ("link", "chain/secret.csv", "circle") else named
    )
    refused = r"is not inside .*/files, the folder of this dashboard's --files|there is no such file in"
    with pytest.raises(SettingsError, match=refused) as said:
        confined(recipe, files, simulated=True)
    assert len(str(said.value)) < 500
    with pytest.raises(SettingsError, match="this dashboard may not open files; give"):
        confined(recipe, None, simulated=True)


@pytest.mark.parametrize("key", KEYS)
def test_what_is_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(files, tmp_path, key):
    said = []
    for name in ("secret.csv", "absent.csv"):
        with pytest.raises(SettingsError) as refused:
            confined(naming(key, f"../{name}"), files, simulated=True)
        said.append(str(refused.value).replace(name, "NAME"))
    assert said[0] == said[1]


@pytest.mark.parametrize("key", KEYS)
def test_a_folder_with_a_link_that_leads_out_is_refused(files, tmp_path, key):
    (files / "tables" / "two.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(SettingsError, match=r"'two.csv' in it points outside .*; remove that link"):
        confined(naming(key, "./tables" if key == "model.id" else "tables"), files, simulated=True)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("named", ["./tables", "{files}/tables", "inner/"])
def test_what_is_below_the_folder_is_taken_by_its_whole_path(files, key, named):
    (files / "inner").symlink_to(files / "tables")
    found = confined(naming(key, named.format(files=files)), files, simulated=True)
    assert named_in(found, key) == str(files.resolve() / "tables")


def test_packaged_names_and_hub_ids_are_taken_as_they_are(files):
    for source in ("airlines", "organisations"):
        assert confined(naming("data.source", source), None, simulated=True).data.source == source
    for model in ("demo", "gpt2", "intfloat/e5-small_v2.1"):
        assert confined(naming("model.id", model), None, simulated=True).model.id == model
    with pytest.raises(SettingsError, match=r"data.source='nothing.csv': there is no such file in"):
        confined(naming("data.source", "nothing.csv"), files, simulated=True)


def test_a_deployed_runs_model_is_named_as_its_sites_know_it(files):
    """They are asked for it by its id, so it is not rewritten; where it says less than the whole path it is refused."""
    whole = str(files.resolve() / "model")
    assert confined(naming("model.id", whole), files, simulated=False).model.id == whole
    with pytest.raises(SettingsError, match=r"model.id='./model': write the whole path, /.*/files/model."):
        confined(naming("model.id", "./model"), files, simulated=False)
    with pytest.raises(SettingsError, match="is not inside"):
        confined(naming("adapter.public.source", "/etc/passwd"), files, simulated=False)


@pytest.mark.parametrize("key", KEYS)
def test_neither_plan_nor_start_nor_resume_touches_what_is_outside(files, tmp_path, key):
    runs = tmp_path / "runs"
    (runs / "old").mkdir(parents=True)
    (runs / "old" / "checkpoint.safetensors").write_bytes(b"")
    pad, recipe = RunLauncher(runs, str(runs / "fedlora.db"), files=files), naming(key, "../secret.csv")
    with pytest.raises(SettingsError, match="is not inside"):
        planned(pad, recipe, examples=10)
    with pytest.raises(SettingsError, match="is not inside"):
        start(pad, recipe, name="new")
    with pytest.raises(SettingsError, match="is not inside"):
        resume(pad, runs / "old", json.loads(recipe.model_dump_json()))
    assert sorted(path.name for path in runs.iterdir()) == ["old"]
    assert not (runs / "old" / "run.log").exists()


def test_simulations_are_started_from_a_page_only_where_it_was_asked_for(files, tmp_path):
    (tmp_path / "runs").mkdir()
    store, accounts = str(tmp_path / "runs" / "fedlora.db"), tmp_path / "runs" / "fedlora.access.json"
    assert pad_for(store, Starting(), accounts) is None
    assert pad_for(store, Starting(files=files), accounts) is None
    assert pad_for(store, Starting(simulations=True, files=files), accounts).files == files
    initialise(tmp_path / "coordinator", name="net", address="localhost:9092")
    beside = str(tmp_path / "coordinator" / "store.db")
    assert pad_for(beside, Starting(), accounts).deployment is not None


def test_the_folder_of_files_holds_neither_store_nor_accounts_nor_keys(tmp_path):
    (tmp_path / "runs").mkdir()
    store = str(tmp_path / "runs" / "fedlora.db")
    elsewhere = tmp_path / "elsewhere" / "access.json"
    elsewhere.parent.mkdir()
    for folder, held in ((tmp_path, "runs"), (tmp_path / "runs", "runs"), (elsewhere.parent, "elsewhere/access.json")):
        with pytest.raises(SettingsError, match=rf"--files .* contains .*{held}, which no recipe may read"):
            pad_for(store, Starting(simulations=True, files=folder), elsewhere)
    initialise(tmp_path / "coordinator", name="net", address="localhost:9092")
    with pytest.raises(SettingsError, match=r"contains .*coordinator"):
        pad_for(str(tmp_path / "coordinator" / "store.db"), Starting(files=tmp_path / "coordinator"), elsewhere)
    with pytest.raises(SettingsError, match=r"--files .*nowhere is not a folder"):
        pad_for(store, Starting(simulations=True, files=tmp_path / "nowhere"), elsewhere)


@pytest.mark.parametrize(
    "named",
    ["strategy.name=os:system", "model.task=subprocess:Popen", "train.optimizer=math:sqrt", "data.source=os:listdir"],
)
def test_a_recipe_that_names_somebodys_code_is_refused_by_a_dashboard_that_lists_none(named):
    """The process that carries it out is a person's own, to which every name is open."""
    before = opened_to()
    open_to({})
    try:
        with pytest.raises(SettingsError, match="is a plug-in, and"):
            confined(parse(Recipe, override({}, [named])), None, simulated=True)
    finally:
        open_to(before)
