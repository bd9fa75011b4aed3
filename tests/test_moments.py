"""Moments of linear maps: what a plain computation with autograd finds, of every kind of map."""

import pytest
import torch
from torch import nn

import wide
from vocabpress.calibrate.metric import TableMetric
from vocabpress.calibrate.moments import MOST_OUTPUTS, Moments, measure_moments, read_directly
from vocabpress.calibrate.observed import counted, identity, input_rows
from vocabpress.calibrate.outputs import Outputs, Ran
from vocabpress.hf.maps import find_maps, weight_of


def frozen(name):
    model = wide.make(name)
    return model.requires_grad_(False)


def plainly(model, batches, name):
    """Inputs, slopes of the output, and which tokens count, of each batch: by the gradient of an offset."""
    module, found = model.base_model.get_submodule(name), []
    for batch in batches:
        seen = []

        def offset(_, args, output, seen=seen):
            seen += [args[0], torch.zeros_like(output).requires_grad_()]
            return output + seen[1]

        hook = module.register_forward_hook(offset)
        try:
            ran = batch()
        finally:
            hook.remove()
        found.append((seen[0], torch.autograd.grad(ran.value, seen[1])[0], ran.counts))
    return found


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_moments_equal_a_plain_computation(name):
    model = frozen(name)
    batches, maps = wide.batches(model), find_maps(model)
    maps = {key: maps[key] for key in list(maps)[1:5] + list(maps)[-2:] if not isinstance(maps[key], nn.Embedding)}
    found = measure_moments(model, maps, batches)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for key in maps:
        if key == "pooler.dense":
            continue
        together_, alone, inputs, slopes = 0.0, 0.0, [], []
        for values, gradients, counts in plainly(model, batches, key):
            centred = values - values[counts].mean(0)
            for row in range(len(counts)):
                products = gradients[row, counts[row]].T @ centred[row, counts[row]]  # of one sequence
                together_ += float(products.square().sum())
                alone += float(
                    (gradients[row, counts[row]].norm(dim=1) * centred[row, counts[row]].norm(dim=1)).square().sum()
                )
            inputs.append(values[counts])
            slopes.append(gradients[counts])
        inputs, slopes = torch.cat(inputs), torch.cat(slopes)
        assert found[key].tokens == len(inputs) == 2 * (9 + 7 + 5)
        torch.testing.assert_close(found[key].inputs, inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[key].mean, inputs.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[key].outputs, slopes.T @ slopes / len(slopes), rtol=1e-3, atol=1e-5)
        assert found[key].coherence == pytest.approx(max(1, together_ / alone), rel=1e-3)
        assert found[key].inputs.shape == (weight_of(maps[key]).shape[1],) * 2


def test_an_error_of_a_map_changes_the_output_by_slopes_times_inputs():
    """The first order on which all else rests: the sum of g E x over the tokens."""
    model = frozen("bert")
    batches = wide.batches(model)[:1]
    values, gradients, counts = plainly(model, batches, "encoder.layer.1.output.dense")[0]
    error = 1e-3 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    changes = torch.einsum("bto,oi,bti->bt", gradients, error, values)[counts]
    module = model.encoder.layer[1].output.dense
    before = batches[0]().value
    module.weight += error
    after = batches[0]().value
    assert float(after - before) == pytest.approx(float(changes.sum()), rel=0.02)


def test_the_padding_of_a_batch_changes_nothing():
    model = frozen("bert")
    key, outputs = "encoder.layer.0.intermediate.dense", []
    for width in (9, 12):
        given = wide.inputs(model, longest=9)
        given = {name: nn.functional.pad(tensor, (0, width - 9)) for name, tensor in given.items()}
        counts = given["attention_mask"].bool()

        def run(given=given, counts=counts):
            found = model(**given)[0][counts]
            return Ran((found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum(), counts)

        outputs.append(measure_moments(model, {key: model.get_submodule(key)}, [run])[key])
    assert outputs[0].tokens == outputs[1].tokens == 21
    for name in ("inputs", "outputs", "mean"):
        torch.testing.assert_close(*(getattr(each, name) for each in outputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "mpnet", "distilbert"])
def test_positions_are_read_by_their_gradients(name):
    model = frozen(name)
    batches = wide.batches(model, 200)
    key = next(key for key, module in find_maps(model).items() if isinstance(module, nn.Embedding))
    module = model.base_model.get_submodule(key)
    found = measure_moments(model, {key: module}, batches)[key]
    slopes, reads = [], torch.zeros(len(module.weight))
    for batch in batches:
        seen = []

        def cut(_, args, output, seen=seen):  # a row for each sequence, so that it has a gradient of its own
            seen += [args[0], output.detach().expand(3, -1, -1).clone().requires_grad_()]
            return seen[1]

        hook = module.register_forward_hook(cut)
        ran = batch()
        hook.remove()
        ids = seen[0].expand(ran.counts.shape)
        slopes.append(torch.autograd.grad(ran.value, seen[1])[0][ran.counts])
        reads += ids[ran.counts].bincount(minlength=len(reads))
    slopes = torch.cat(slopes)
    expected = slopes.T @ slopes / len(slopes)
    assert found.tokens == len(slopes) == 200 * 21
    if name == "mpnet":  # it reads positions for each sequence
        torch.testing.assert_close(found.inputs, expected, rtol=1e-3, atol=1e-5)
    assert float((found.inputs - expected).norm() / expected.norm()) < 0.2
    assert float(found.inputs.trace()) == pytest.approx(float(expected.trace()), rel=0.05)
    spread = torch.ones(len(reads)) / (2 * len(reads))
    torch.testing.assert_close(found.outputs, (reads / (2 * len(slopes)) + spread).diag())
    assert float(found.outputs.trace()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("name", ["bert", "bart", "t5"])
def test_the_metric_of_the_token_table_is_measured_along_with_the_maps(name):
    model = frozen(name)
    batches, tables, metric = wide.batches(model), input_rows(model), TableMetric()
    measure_moments(model, find_maps(model), batches, also=metric.add)
    gradients = []
    for batch in batches:
        read = []
        hooks = [
            table.register_forward_hook(lambda *a, read=read: read.append(a[2].detach().requires_grad_()) or read[-1])
            for table in tables
        ]
        ran = batch()
        gradients += [gradient[ran.counts] for gradient in torch.autograd.grad(ran.value, read)]
        for hook in hooks:
            hook.remove()
    gradients = torch.cat(gradients)
    found = metric.calibration(Outputs(model, "hidden", 6, batches))
    assert (found.metric_tokens, found.metric_head, found.predicted) == (len(gradients), None, None)
    torch.testing.assert_close(found.metric, gradients.T @ gradients / len(gradients), rtol=1e-4, atol=1e-6)
    assert float(found.metric.trace()) > 0


def test_a_map_that_no_text_reaches_has_no_moments():
    model = frozen("bert")
    extra = nn.Linear(64, 64)
    found = measure_moments(model, {"extra": extra, "pooler": model.pooler.dense}, wide.batches(model))
    assert found["extra"].tokens == 0
    assert found["extra"].coherence == 1
    for each in (found["extra"].inputs, found["extra"].outputs, found["extra"].mean, found["pooler"].outputs):
        assert not bool(each.any())
    assert found["pooler"].tokens == 6  # called, but it changes nothing that counts
    assert float(found["pooler"].inputs.trace()) > 0


def test_as_many_tokens_as_a_vector_has_entries():
    """(batch, d) of a pooler looks like (batch, tokens) then."""
    model = frozen("bert")
    given, counts = wide.inputs(model, 2, 64), torch.ones(2, 64, dtype=torch.bool)
    run = lambda: Ran(model(**{**given, "attention_mask": counts.long()}).pooler_output.sum(), counts)  # noqa: E731
    found = measure_moments(model, {"pooler": model.pooler.dense}, [run])["pooler"]
    assert (found.tokens, found.coherence) == (2, 1)


def test_what_counts():
    counts = torch.tensor([[True, True], [True, False]])
    states, heads = torch.arange(8.0).view(2, 2, 2), torch.arange(24.0).view(2, 2, 3, 2)
    assert torch.equal(counted(states, counts), states.flatten(0, 1)[:3])
    assert torch.equal(counted(heads, counts), heads.flatten(0, 1)[:3].flatten(0, 1))
    assert torch.equal(counted(states[0], counts), states[0])
    assert torch.equal(counted(heads[:, :, 0].view(1, 4, 2), counts), heads[:, :, 0].view(4, 2))


@pytest.mark.parametrize("name", ["mixtral", "qwen2, experts", "llama", "t5", "bart", "ctrl", "xlnet"])
def test_maps_of_all_models_are_measured(name):
    model = frozen(name)
    maps = find_maps(model)
    found = measure_moments(model, maps, wide.batches(model))
    for key, module in maps.items():
        assert found[key].inputs.shape == (weight_of(module).shape[1],) * 2, key
        assert bool(found[key].inputs.isfinite().all()), key
        assert found[key].coherence >= 1, key
        assert found[key].tokens > 0, key


def test_experts_see_few_tokens_or_none():
    class Experts(nn.Module):
        """Half of the positive tokens, and none, each to a map of its own."""

        def __init__(self):
            super().__init__()
            self.few, self.none, self.named = (nn.Linear(64, 64) for _ in range(3))

        def forward(self, states):
            states[states[..., 0] > 0] = self.few(states[states[..., 0] > 0])
            states[:0, 0] = self.none(states[:0, 0])
            return self.named(input=states)

    model, experts = frozen("bert"), Experts().requires_grad_(False)
    batches = wide.batches(model)

    def run(batch):
        ran = batch()
        states = torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(0)).requires_grad_() * 1
        return Ran(experts(states).sum(), ran.counts)

    found = measure_moments(model, dict(experts.named_children()), [lambda: run(batches[0])])
    assert 0 < found["few"].tokens < 27
    assert (found["none"].tokens, found["named"].tokens) == (0, 21)
    assert not any(bool(tensor.isnan().any()) for each in found.values() for tensor in (each.inputs, each.mean))


def test_weights_that_are_read_without_a_call_are_found():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.called, self.read, self.idle = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, states):
            return nn.functional.linear(self.called(states), self.read.weight)

    model = Reads().requires_grad_(False)
    run = lambda: Ran(model(torch.ones(1, 2, 4)).sum(), torch.ones(1, 2, dtype=torch.bool))  # noqa: E731
    assert read_directly({"read": model.read, "idle": model.idle}, run) == {"read"}
    assert read_directly({}, run) == read_directly({"idle": model.idle}, run) == set()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_outputs_of_wide_maps_are_not_measured():
    assert Moments.none(MOST_OUTPUTS + 1, 2).outputs is None


def test_maps_share_what_they_read_only_if_the_numbers_are_in_the_same_order():
    square = torch.arange(4.0).view(2, 2)
    assert identity(square) == identity(square.detach()) == identity(square.view(2, 2))
    assert len({identity(each) for each in (square, square.T, square[:1], square.view(torch.int32))}) == 4
