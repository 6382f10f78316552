"""What is special to one loss on maps: settings, learned parts, masks at random, other people's functions."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import AT, CWD, FSP, MGD, NST, PKD, VID, Loss, at, cwd, fsp, mgd, nst, pkd, vid

GENERATOR = torch.Generator().manual_seed(1)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def test_attention_ignores_size_and_sign() -> None:
    """Attention that is not normalised, or that sees the sign of odd powers."""
    student, teacher = random(2, 3, 4, 4), random(2, 5, 4, 4)
    for power in (1.0, 2.0, 3.0):
        expected = at(student, teacher, power=power)
        torch.testing.assert_close(at(student * -7.0, teacher, power=power), expected)
    for power in (0.5, math.inf, math.nan):
        with pytest.raises(LimbeckError, match="at least 1"):
            AT(power)


@pytest.mark.parametrize("channels", [(3, 4), (40, 30)])
def test_neurons_are_two_samples(channels: tuple[int, int]) -> None:
    """Two ways to compute one number, for few positions and for many, that are not one; sizes that matter."""
    student, teacher = random(2, channels[0], 4, 3), random(2, channels[1], 4, 3)
    own, taught = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    grams = [torch.einsum("bcp,bcq->bpq", one, one) / one.shape[1] for one in (own, taught)]
    torch.testing.assert_close(nst(student, teacher), (grams[0] - grams[1]).square().sum((1, 2)))
    shuffled = student[:, torch.randperm(channels[0])] * 3.0
    torch.testing.assert_close(nst(shuffled, teacher), nst(student, teacher))


def test_channelwise_is_torchs_kl_at_a_temperature() -> None:
    """KL the wrong way round, or T² left out."""
    student, teacher = random(2, 3, 4, 4), random(2, 3, 4, 4)
    for temperature in (1.0, 4.0):
        log_q, log_p = ((one.flatten(2) / temperature).log_softmax(2) for one in (student, teacher))
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(2).mean(1)
        torch.testing.assert_close(cwd(student, teacher, temperature=temperature), divergence * temperature**2)
    with pytest.raises(LimbeckError, match="temperature"):
        CWD(0.0)


def test_pearson_is_the_correlation_over_the_batch() -> None:
    """Statistics of each item by itself, or a student that must copy the teacher's scale."""
    student, teacher = random(6, 3, 4, 2), random(6, 3, 4, 2)
    count = 6 * 4 * 2
    rows = [one.transpose(0, 1).flatten(1).numpy() for one in (student, teacher)]
    correlations = [pearsonr(*pair).statistic for pair in zip(*rows, strict=True)]
    expected = (1 - sum(correlations) / 3) * (count - 1) / count
    torch.testing.assert_close(pkd(student, teacher).mean(), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    moved = student * 3.0 + random(1, 3, 1, 1)
    torch.testing.assert_close(pkd(moved, teacher), pkd(student, teacher), rtol=1e-5, atol=1e-5)


def test_pearson_of_texts_is_that_of_their_tokens() -> None:
    """Padding in a channel's mean; texts of different length weighed so that the whole is no correlation."""
    tokens = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
    student, teacher = random(3, 3, 4), random(3, 3, 4)
    where = torch.tensor([True, True, False])
    values = pkd(student, teacher, where, tokens)
    kept = tokens & where.unsqueeze(1)
    torch.testing.assert_close(values[:2].mean(), pkd(student[kept], teacher[kept]).mean())
    assert values[2] == 0
    nothing = pkd(student, teacher, torch.zeros(3, dtype=torch.bool), tokens)
    assert bool((nothing == 0).all())
    with pytest.raises(LimbeckError, match=r"mask of shape \(3,\)"):
        pkd(student, teacher, where[:2])


def test_flows_are_those_of_neighbours() -> None:
    """A flow from the first tap to each, or the mean of flows instead of their sum."""
    student, teacher = (tuple(random(2, c, 4, 4) for c in (2, 3, 4)) for _ in range(2))
    parts = [fsp(student[i : i + 2], teacher[i : i + 2]) for i in range(2)]
    torch.testing.assert_close(fsp(student, teacher), parts[0] + parts[1])
    product = torch.einsum("bchw,bdhw->bdc", student[0], student[1]) / 16
    torch.testing.assert_close(
        fsp(student[:2], tuple(map(torch.zeros_like, student[:2]))), product.square().mean((1, 2))
    )


def test_flows_need_matching_taps() -> None:
    """One tap, other counts, or other channels, that end in an index error or are broadcast."""
    taps = (random(2, 2, 4, 4), random(2, 3, 4, 4))
    for student, teacher in (((taps[0],), (taps[0],)), (taps, taps[:1]), (taps[0], taps[0])):
        for use in (fsp, FSP().build):
            with pytest.raises(LimbeckError, match="two taps or more"):
                use(student, teacher)
    with pytest.raises(LimbeckError, match=r"tap 1: the student has 2 channels, the teacher 3.*example=batch"):
        FSP()(taps, taps[::-1])


def test_padding_does_not_reach_the_maps_of_flows() -> None:
    """NaN behind a mask that gets into the gradient of a learned map: 0 times NaN."""
    tokens = torch.tensor([[True, True, False]])
    student = random(1, 3, 2).float().masked_fill(~tokens.unsqueeze(2), torch.nan)
    loss = FSP()
    taps = (random(1, 3, 4).float(), random(1, 3, 5).float())
    loss.build((student, student), taps)
    loss((student, student), taps, tokens).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in loss.parameters())


def test_variance_starts_where_it_is_told_and_settles_at_the_error() -> None:
    """A scale read as a variance, or a variance that collapses or grows without end."""
    loss = VID(initial_variance=3.0)
    loss.build(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    assert loss.log_scale is not None
    torch.testing.assert_close(F.softplus(loss.log_scale.detach()) + 1e-5, torch.full((5,), 3.0))
    mean, teacher = random(50, 2), random(50, 2)
    log_scale = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = vid(mean, teacher, log_scale).mean()
        value.backward()
        return value

    optimizer.step(step)  # type: ignore[arg-type]
    settled = F.softplus(log_scale.detach()) + 1e-5
    torch.testing.assert_close(settled, (mean - teacher).square().mean(0), rtol=1e-3, atol=1e-3)
    with pytest.raises(LimbeckError, match="initial_variance"):
        VID(0.0)
    with pytest.raises(LimbeckError, match=r"log_scale of shape \(2,\)"):
        vid(mean, teacher, torch.zeros(3))


def test_the_regressor_takes_a_vit_to_a_map() -> None:
    """Learned layers for tokens, where the feature has become a map."""
    loss = VID()
    tokens, teacher = random(2, 17, 6).float(), random(2, 5, 8, 8).float()
    loss.build(tokens, teacher)
    assert loss(tokens, teacher).shape == (2,)


@pytest.mark.parametrize(
    ("shape", "hides", "drawn"),
    [((64, 32, 5, 5), "channels", (64, 32, 1, 1)), ((64, 4, 5, 7), "positions", (64, 1, 5, 7)),
     ((64, 9, 32), "channels", (64, 1, 32)), ((64, 32), "channels", (64, 32))],
)  # fmt: skip
def test_the_mask_hides_a_share_of_the_student(shape: tuple[int, ...], hides: str, drawn: tuple[int, ...]) -> None:
    """A mask of other places than said, of another share, or one that evaluation sees."""
    torch.manual_seed(0)
    loss = MGD(ratio=0.3, hides=hides)  # type: ignore[arg-type]
    student, teacher = random(*shape).float(), random(*shape).float()
    loss.build(student, teacher)
    mask = loss.drawn(student)
    assert mask.shape == drawn
    assert abs(float((~mask).float().mean()) - 0.3) < 0.03
    assert loss.generation is not None
    torch.manual_seed(5)
    trained = loss.train()(student, teacher)
    torch.manual_seed(5)
    torch.testing.assert_close(trained, mgd(student * loss.drawn(student), teacher, loss.generation))
    assert not torch.equal(trained, loss(student, teacher))
    plain = loss.eval()(student, teacher)
    torch.testing.assert_close(plain, mgd(student, teacher, loss.generation), rtol=0, atol=0)


def test_what_is_hidden_has_no_gradient() -> None:
    """A mask on the generated feature instead of the student's."""
    student, teacher = random(4, 3).requires_grad_(), random(4, 3)
    mask = torch.tensor([True, False, True])
    weight = random(3, 3)
    mgd(student, teacher, lambda given: given @ weight, mask=mask).sum().backward()
    assert student.grad is not None
    assert bool((student.grad[:, 1] == 0).all())
    assert bool((student.grad[:, [0, 2]] != 0).all())


def test_masks_that_make_no_sense_are_refused() -> None:
    """A share above 1; positions of tokens, whose block sees one token at a time; a block of another width."""
    for settings in ({"ratio": 1.0}, {"ratio": -0.1}, {"hides": "rows"}):
        with pytest.raises(LimbeckError, match=next(iter(settings))):
            MGD(**settings)  # type: ignore[arg-type]
    loss = MGD(hides="positions")
    loss.build(random(2, 5, 4), random(2, 5, 4))
    with pytest.raises(LimbeckError, match="hides='channels'"):
        loss.train()(random(2, 5, 4), random(2, 5, 4))
    with pytest.raises(LimbeckError, match="after generation"):
        mgd(random(2, 4), random(2, 4), operator.itemgetter((slice(None), slice(2))))


@pytest.mark.parametrize("loss", [VID(), MGD()], ids=lambda loss: loss.name)
def test_learned_parts_must_be_built(loss: Loss) -> None:
    """An AttributeError on None where the user forgot the example."""
    with pytest.raises(LimbeckError, match=r"example=batch \(or call build\)"):
        loss(random(2, 3, 4, 4), random(2, 3, 4, 4))


@pytest.mark.parametrize("make", [AT, NST, VID, MGD, CWD, PKD, FSP], ids=lambda make: make.__name__)
def test_in_a_distiller(make: type[Loss]) -> None:
    """Learned parts that the optimizer does not see, or are made for features before the projector."""
    torch.manual_seed(0)

    def model(width: int) -> nn.Module:
        first, second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        return nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4))

    taps = ("0", "2") if make is FSP else "2"
    batch = {"inputs": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 1, -1, 3])}
    distiller = Distiller(model(4), model(6), [Term(make(), student=taps, teacher=taps)], example=batch)
    distiller(batch).loss.backward()
    for name, parameter in distiller.named_parameters():
        reached = name.startswith(("objective", "student.0", "student.2"))
        assert (parameter.grad is not None and bool(parameter.grad.isfinite().all())) == reached, name
