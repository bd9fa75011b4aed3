"""Every form, and what every method fits, under the laws of docs/design.md. The numbers in the names are theirs."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import BUDGETS, FORMS, METHOD_CASES, D, V, low_rank_table
from vocabpress import EMBEDDINGS, METHODS, Blockwise, Budget, Method, Stacked, build
from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.hf.modules import TiedHead
from vocabpress.reconstruction import reconstruction


@cache
def fitted(method: Method, budget: Budget) -> CompressedEmbedding:
    """What a method makes with every token alike; several laws look at it, and none changes it."""
    return method.fit(low_rank_table(), budget=budget)


FITTED = {f"{name} at {budget}": (name, budget) for name in METHOD_CASES for budget in BUDGETS[:1]}


@pytest.fixture(scope="module", params=[*FORMS, *FITTED])
def form(request) -> CompressedEmbedding:
    torch.manual_seed(0)
    if request.param in FORMS:
        return FORMS[request.param]()
    name, budget = FITTED[request.param]
    return fitted(METHOD_CASES[name].method, budget)


def hidden_states(form, *shape):
    return torch.randn(*shape, form.embedding_dim)


def test_every_form_and_method_is_in_the_table():
    def names(config):
        yield config["form"]
        for value in config.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    yield from names(part)

    assert {name for make in FORMS.values() for name in names(make().config())} == set(EMBEDDINGS)
    assert {type(case.method) for case in METHOD_CASES.values()} == {*METHODS.values(), Stacked, Blockwise}


def test_1_lookup_is_indexing_the_dense_table(form):
    dense = form.dense()
    assert dense.shape == (form.num_embeddings, form.embedding_dim)
    last = form.num_embeddings - 1
    for ids in (torch.tensor(last), torch.tensor([0, last, 0]), torch.randint(0, last, (2, 3, 4)), torch.zeros(0, 3)):
        ids = ids.long()
        rows = form.lookup(ids)
        assert rows.shape == (*ids.shape, form.embedding_dim)
        # Matrix products of other shapes may round differently in the last bit.
        torch.testing.assert_close(rows, dense[ids], rtol=1e-6, atol=1e-6)


def test_1_ids_may_be_int32(form):
    ids = torch.tensor([1, 5, 2], dtype=torch.int32)
    assert torch.equal(form.lookup(ids), form.lookup(ids.long()))


def test_2_logits_are_inner_products_with_the_rows(form):
    form = copy.deepcopy(form).double()
    for shape in ((), (3,), (2, 5), (0,)):
        hidden = hidden_states(form, *shape).double()
        expected = hidden @ form.dense().double().T
        torch.testing.assert_close(form.logits(hidden), expected)
        torch.testing.assert_close(CompressedEmbedding.logits(form, hidden), expected)


def test_3_a_reload_changes_no_bit(form, tmp_path):
    save_file(form.stored_tensors(), tmp_path / "table.safetensors")
    with torch.device("meta"):
        empty = build(form.config())
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    loaded = empty.to_empty(device="cpu")
    loaded.load_state_dict(load_file(tmp_path / "table.safetensors"), strict=True)
    ids = torch.randint(0, form.num_embeddings, (100,))
    assert torch.equal(loaded.lookup(ids), form.lookup(ids))
    assert loaded.config() == form.config()


def test_4_bits_are_those_of_the_file(form, tmp_path):
    save_file(form.stored_tensors(), tmp_path / "table.safetensors")
    header = int.from_bytes((tmp_path / "table.safetensors").read_bytes()[:8], "little")
    payload = (tmp_path / "table.safetensors").stat().st_size - 8 - header
    assert payload * 8 == form.total_bits() == sum(item.bits for item in form.storage())
    assert form.bits_per_weight == form.total_bits() / (form.num_embeddings * form.embedding_dim)
    with torch.device("meta"):
        assert build(form.config()).total_bits() == form.total_bits()


def test_4_reading_does_not_change_what_is_stored(form):
    before = {name: tensor.clone() for name, tensor in form.stored_tensors().items()}
    form.lookup(torch.tensor([0, 1]))
    form.logits(hidden_states(form, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in form.stored_tensors().items())


def test_10_gradients_reach_every_parameter(form):
    form = copy.deepcopy(form)
    if not list(form.parameters()):
        assert not form.dense().requires_grad  # a hash code without scales: nothing to train
        return
    form.requires_grad_(True)
    (form.dense().square().sum() + form.logits(hidden_states(form, 3)).square().sum()).backward()
    for name, parameter in form.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_10_other_dtypes_copies_and_modes(form):
    ids = torch.tensor([3, 1])
    low = copy.deepcopy(form).to(torch.bfloat16)
    assert all(buffer.dtype == torch.uint8 for buffer in low.buffers())
    if any(True for _ in form.parameters()):  # a hash code without scales has no dtype of its own
        assert low.lookup(ids).dtype == torch.bfloat16
        assert low.logits(hidden_states(form, 2).bfloat16()).dtype == torch.bfloat16
    assert low.total_bits() == form.total_bits()
    assert torch.equal(copy.deepcopy(form).eval().lookup(ids), form.lookup(ids))


def test_10_graphs_compile_whole_and_export(form):
    torch._dynamo.reset()  # the code is shared by all cases; nothing of the last one must count as a recompilation
    ids = torch.tensor([[3, 1, 0]])
    compiled = torch.compile(form, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids), form(ids))
    head = torch.compile(TiedHead(form), fullgraph=True, backend="eager")
    hidden = hidden_states(form, 2)
    torch.testing.assert_close(head(hidden), form.logits(hidden))
    exported = torch.export.export(form, (ids,))
    torch.testing.assert_close(exported.module()(ids), form(ids))


def test_11_a_tied_head_adds_no_key_and_equals_logits(form):
    bias = torch.nn.Parameter(torch.randn(form.num_embeddings))
    model = torch.nn.ModuleDict({"table": form, "head": TiedHead(form, bias), "bare": TiedHead(form)})
    assert set(model.state_dict()) - {f"table.{key}" for key in form.state_dict()} == {"head.bias"}
    hidden = hidden_states(form, 2, 3)
    torch.testing.assert_close(model["head"](hidden), form.logits(hidden) + bias)
    torch.testing.assert_close(model["bare"](hidden), form.logits(hidden))
    twin = copy.deepcopy(model)
    assert twin["head"].table is twin["table"]


@pytest.fixture(params=METHOD_CASES)
def case(request):
    return METHOD_CASES[request.param]


ALIKE = torch.ones(400)
ZIPF = 400 / torch.arange(1.0, 401).roll(137)  # token weights, the heaviest in the middle of the ids


@cache
def sizes_of_families(method: Method, alike: bool) -> list[tuple[dict, str, list[int]]]:
    """What is fixed in each family of plans, the name of its free size, and the bits at each size."""
    shape, found = low_rank_table().shape, []
    for fixed, size, sizes in method.families(*shape, ALIKE if alike else ZIPF):
        found.append((fixed, size, [method.stored_bits(*shape, {**fixed, size: value}) for value in sizes]))
    return found


@pytest.mark.parametrize("weights", [ALIKE, ZIPF], ids=["all alike", "Zipf's law"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_5_the_budget_is_met_and_the_next_size_would_not_fit(case, budget, weights):
    table = low_rank_table()
    limit = budget.max_bits(*table.shape)
    plans = case.method.plans(*table.shape, budget, weights)
    assert plans
    for fixed, size, stored in sizes_of_families(case.method, weights is ALIKE):
        assert stored == sorted(stored)
        found = [plan for plan in plans if fixed == {key: plan[key] for key in plan if key != size}]
        # A family without a plan is too large from its first size on. A plan may store more than its family's sizes.
        taken = [case.method.stored_bits(*table.shape, plan) for plan in found] or [0]
        assert max(taken) <= limit
        assert not [bits for bits in stored if max(taken) < bits <= limit]
    alike = weights is ALIKE
    form = fitted(case.method, budget) if alike else case.method.fit(table, budget=budget, token_weights=weights)
    planned = {case.method.stored_bits(*table.shape, plan) for plan in plans}
    assert form.total_bits() <= limit
    assert form.total_bits() in planned or not case.exact


def test_6_more_budget_never_means_more_error(case):
    table = low_rank_table()
    errors = [reconstruction(table, fitted(case.method, b)).relative_error for b in BUDGETS]
    assert errors == sorted(errors)


def test_7_a_budget_for_everything_is_nearly_exact(case):
    table = low_rank_table()
    form = case.method.fit(table, budget=Budget.ratio(1.0))
    assert reconstruction(table, form).relative_error < case.everything


def test_8_the_same_seed_gives_the_same_codes(case):
    table = low_rank_table()
    first, again = (
        case.method.fit(table, budget=BUDGETS[0], generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert first.config() == again.config()
    for (name, a), b in zip(first.stored_tensors().items(), again.stored_tensors().values(), strict=True):
        if a.dtype == torch.uint8:
            assert torch.equal(a, b), name
        else:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_9_weight_on_some_tokens_lowers_their_error(case):
    table = low_rank_table()
    favoured = torch.zeros(len(table))
    favoured[::4] = 1.0
    plain = fitted(case.method, BUDGETS[1])
    weighted = case.method.fit(table, budget=BUDGETS[1], token_weights=favoured * 200 + 1)
    before, after = (reconstruction(table, form, favoured).relative_error for form in (plain, weighted))
    assert after < before * case.weighted


BAD_TABLES = {
    "NaN": (lambda t: t.index_fill(0, torch.tensor([7]), torch.nan), "the first is row 7"),
    "infinite": (lambda t: t.index_fill(0, torch.tensor([3, 9]), torch.inf), "2 of 400 rows"),
    "one axis": (lambda t: t[0], "float matrix"),
    "integers": (lambda t: t.int(), "float matrix"),
    "empty": (lambda t: t[:0], "float matrix"),
    "beyond float16": (lambda t: t * 1e9, "too large"),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_12_bad_tables_are_refused(case, bad):
    spoil, words = BAD_TABLES[bad]
    with pytest.raises(ValueError, match=words):
        case.method.fit(spoil(low_rank_table()), budget=BUDGETS[0])


BAD_WEIGHTS = {
    "too few": (torch.ones(3), "needs \\(400,\\)"),
    "negative": (-torch.ones(400), "not negative"),
    "all zero": (torch.zeros(400), "not all zero"),
    "NaN": (torch.full((400,), torch.nan), "finite"),
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
def test_12_bad_token_weights_are_refused(case, bad):
    weights, words = BAD_WEIGHTS[bad]
    with pytest.raises(ValueError, match=words):
        case.method.fit(low_rank_table(), budget=BUDGETS[0], token_weights=weights)


def test_12_a_budget_that_no_plan_meets_names_the_best_possible(case):
    with pytest.raises(ValueError, match=r"the least that .* can store is [0-9,]+ bytes \(ratio"):
        case.method.fit(low_rank_table(), budget=Budget.ratio(20000))


def test_12_bad_settings_are_refused(case):
    for settings in case.bad:
        with pytest.raises(ValueError, match=r"got|choose"):
            replace(case.method, **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FORMS["sum"]().__class__([]),
        lambda: build({"form": "sum", "parts": [FORMS["low rank"]().config(), fill_other().config()]}),
        lambda: build({"form": "origami"}),
        lambda: build({}),
    ],
    ids=["empty sum", "unequal parts", "unknown form", "no form"],
)
def test_12_bad_forms_are_refused(make):
    with pytest.raises(ValueError, match=r"one shape|unknown form"):
        make()


def fill_other():
    return EMBEDDINGS["dense"](V + 1, D)
