"""Small classifiers of texts, at a small part of a transformer's cost: bags of n-grams, an LSTM, static embeddings.

Each is called with `input_ids` (batch, length) and `attention_mask` (batch, length), on either side of which there may
be padding, and gives logits (batch, classes) that no padding changes. Where no mask is given, what is not `pad_id`
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

_PRIME, _FACTOR = (1 << 31) - 1, 1_000_003
"""A Mersenne prime and a number below it: products of two such fit 63 bits, in any language that reads the model."""


class TextNgrams(nn.Module):
    """The mean of the embeddings of a text's tokens and n-grams, and a linear layer: fastText on token ids.

    Tokens have rows of their own; n-grams of 2 to `ngrams` tokens share `buckets` rows by their hash.

    Args:
        num_classes, vocabulary, pad_id: what the data ask for.
        buckets: the rows of n-grams; 0 where `ngrams` is 1.
        width: the length of an embedding.
        ngrams: the tokens of the longest n-gram.
        hidden: the width of a hidden layer with ReLU, 0 for none.

    Raises:
        LimbeckError: a number is out of its range.

    Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", arXiv:1607.01759.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        vocabulary: int,
        pad_id: int = 0,
        buckets: int = 20_000,
        width: int = 32,
        ngrams: int = 2,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        _positive("text-ngrams", num_classes=num_classes, vocabulary=vocabulary, width=width, ngrams=ngrams)
        if ngrams > 1:
            _positive("text-ngrams", buckets=buckets)
        self.pad_id, self.ngrams, self.vocabulary = pad_id, ngrams, vocabulary
        self.buckets = buckets if ngrams > 1 else 0
        # The last row is what padding reads: it is left out of the mean.
        self.nothing = vocabulary + self.buckets
        self.bag = nn.EmbeddingBag(self.nothing + 1, width, mode="mean", padding_idx=self.nothing)
        self.hidden, self.fc = _head(width, hidden, num_classes)
        _small(self.bag.weight)
        with torch.no_grad():
            # An n-gram that training never shows must not move the mean.
            self.bag.weight[vocabulary:].zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) of `input_ids` (batch, length), where `attention_mask` (batch, length) is 1."""
        real = _real(input_ids, attention_mask, self.pad_id)
        logits: Tensor = self.fc(self.hidden(self.bag(self.rows(input_ids, real))))
        return logits

    def rows(self, input_ids: Tensor, real: Tensor) -> Tensor:
        """The rows of the table that a text reads, (batch, tokens and n-grams) int64, of (batch, length) each."""
        found = [torch.where(real, input_ids, self.nothing)]
        hashed, whole = input_ids + 1, real
        for size in range(2, self.ngrams + 1):
            if size > input_ids.shape[1]:
                break
            following = input_ids[:, size - 1 :]
            hashed = (hashed[:, :-1] * _FACTOR + following + 1) % _PRIME
            whole = whole[:, :-1] & real[:, size - 1 :]
            found.append(torch.where(whole, self.vocabulary + hashed % self.buckets, self.nothing))
        return torch.cat(found, 1)

    def start_from(self, table: Tensor) -> None:
        """Starts the tokens' embeddings from (vocabulary, dimensions); see `fitted`."""
        with torch.no_grad():
            self.bag.weight[: self.vocabulary].copy_(fitted(table, self.bag.weight[: self.vocabulary], "text-ngrams"))


class TextLSTM(nn.Module):
    """Embeddings, an LSTM in one or both directions, the maximum and the mean over the text, and a linear layer.

    Args:
        num_classes, vocabulary, pad_id: what the data ask for.
        width: the length of an embedding.
        units: the LSTM's units in each direction.
        layers: LSTM layers.
        bidirectional: 1 to read in both directions, 0 to read from the beginning alone.
        hidden: the width of a hidden layer with ReLU, 0 for none.

    Raises:
        LimbeckError: a number is out of its range.

    The student of Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks",
    arXiv:1903.12136, but for the pooling: theirs takes the last states.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        vocabulary: int,
        pad_id: int = 0,
        width: int = 64,
        units: int = 64,
        layers: int = 1,
        bidirectional: int = 1,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        _positive("text-lstm", num_classes=num_classes, vocabulary=vocabulary, width=width, units=units, layers=layers)
        self.pad_id = pad_id
        ways = 2 if bidirectional else 1
        self.embedding = nn.Embedding(vocabulary, width)
        inputs = [width, *[ways * units] * (layers - 1)]
        self.forwards = nn.ModuleList(nn.LSTM(each, units, batch_first=True) for each in inputs)
        self.backwards = nn.ModuleList(nn.LSTM(each, units, batch_first=True) for each in inputs[: layers * (ways - 1)])
        self.pool = MaxMeanPool()
        self.hidden, self.fc = _head(2 * ways * units, hidden, num_classes)
        _small(self.embedding.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) of `input_ids` (batch, length), where `attention_mask` (batch, length) is 1."""
        real = _real(input_ids, attention_mask, self.pad_id)
        # Rows are turned so that they begin with a token, and no state has passed over padding before it. Both
        # directions are LSTMs of their own that read from the front; packed sequences would wait for the lengths.
        length = input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device)
        order = places + real.long().argmax(1, keepdim=True)
        order = torch.where(order < length, order, order - length)
        input_ids, real = input_ids.gather(1, order), real.gather(1, order)
        reverse = torch.where(real, real.sum(1, keepdim=True) - 1 - places, places).unsqueeze(-1)
        states = self.embedding(input_ids)
        for index, ahead in enumerate(self.forwards):
            read = [ahead(states)[0]]
            if len(self.backwards):
                reversed_ = states.gather(1, reverse.expand(-1, -1, states.shape[-1]))
                back = self.backwards[index](reversed_)[0]
                # An exporter takes the length of what an LSTM gives for fixed: it is that of the places.
                read.append(back.gather(1, reverse.expand(-1, -1, back.shape[-1])))
            states = torch.cat(read, -1)
        logits: Tensor = self.fc(self.hidden(self.pool(states, real)))
        return logits

    def start_from(self, table: Tensor) -> None:
        """Starts the embeddings from (vocabulary, dimensions); see `fitted`."""
        with torch.no_grad():
            self.embedding.weight.copy_(fitted(table, self.embedding.weight, "text-lstm"))


class TextStatic(nn.Module):
    """A mean of token embeddings, each with a learned weight of its token, and a network of one hidden layer.

    Args:
        num_classes, vocabulary, pad_id: what the data ask for.
        width: the length of an embedding.
        hidden: the width of the hidden layer with ReLU, 0 for none.

    Raises:
        LimbeckError: a number is out of its range.
    """

    def __init__(
        self, *, num_classes: int, vocabulary: int, pad_id: int = 0, width: int = 64, hidden: int = 64
    ) -> None:
        super().__init__()
        _positive("text-static", num_classes=num_classes, vocabulary=vocabulary, width=width)
        self.pad_id = pad_id
        self.embedding = nn.Embedding(vocabulary, width)
        self.weight = nn.Embedding(vocabulary, 1)
        self.pool = WeightedMean()
        self.hidden, self.fc = _head(width, hidden, num_classes)
        _small(self.embedding.weight)
        nn.init.zeros_(self.weight.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) of `input_ids` (batch, length), where `attention_mask` (batch, length) is 1."""
        real = _real(input_ids, attention_mask, self.pad_id)
        pooled = self.pool(self.embedding(input_ids), self.weight(input_ids).squeeze(-1), real)
        logits: Tensor = self.fc(self.hidden(pooled))
        return logits

    def start_from(self, table: Tensor) -> None:
        """Starts the embeddings from (vocabulary, dimensions); see `fitted`."""
        with torch.no_grad():
            self.embedding.weight.copy_(fitted(table, self.embedding.weight, "text-static"))


class MaxMeanPool(nn.Module):
    """The maximum and the mean over the real tokens, side by side."""

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """(batch, 2 · width) of `states` (batch, length, width) where `real` (batch, length); 0 where nothing is."""
        counted = real.unsqueeze(-1)
        largest = states.masked_fill(~counted, torch.finfo(states.dtype).min).amax(1)
        mean = states.masked_fill(~counted, 0.0).sum(1) / counted.sum(1).clamp(min=1)
        return torch.cat([torch.where(counted.any(1), largest, 0.0), mean], -1)


class WeightedMean(nn.Module):
    """The mean over the real tokens by the softmax of their weights."""

    def forward(self, states: Tensor, weights: Tensor, real: Tensor) -> Tensor:
        """(batch, width) of `states` (batch, length, width) and `weights` (batch, length) where `real` (batch,
        length); 0 where nothing is."""
        shares = weights.masked_fill(~real, torch.finfo(weights.dtype).min).softmax(1).masked_fill(~real, 0.0)
        return torch.bmm(shares.unsqueeze(1), states).squeeze(1)


def fitted(table: Tensor, own: Tensor, what: str) -> Tensor:
    """A table of embeddings (vocabulary, dimensions) as a start for `own` (vocabulary, width), in its spread.

    Where the table has more dimensions, the principal ones are taken. It is scaled as a whole, so that directions stay.

    Raises:
        LimbeckError: the table has other rows, fewer dimensions, or values that are not finite or all the same.
    """
    if table.ndim != 2 or table.shape[0] != own.shape[0] or table.shape[1] < own.shape[1]:
        raise LimbeckError(
            f"{what}: expected a table of {own.shape[0]} tokens in at least {own.shape[1]} dimensions, got shape "
            f"{tuple(table.shape)}; student and teacher need one tokenizer, and the student's width may not be larger"
        )
    values = table.detach().to("cpu", torch.float64)
    if table.shape[1] > own.shape[1]:
        values = values - values.mean(0)
        directions = torch.linalg.eigh(values.T @ values).eigenvectors[:, -own.shape[1] :].flip(1)
        # An eigenvector has no sign of its own; this one is the same on every machine.
        signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        values = values @ (directions * signs)
    spread = values.std()
    if not bool(spread.isfinite()) or float(spread) == 0:
        raise LimbeckError(f"{what}: the table of embeddings has values that are not finite, or all the same; train it")
    return (values * (SPREAD / spread)).to(own)


SPREAD = 0.1
"""The standard deviation of fresh embeddings: those of tokens that training never shows must not drown the others."""


def _small(table: Tensor) -> None:
    nn.init.normal_(table, std=SPREAD)


def _head(width: int, hidden: int, num_classes: int) -> tuple[nn.Module, nn.Linear]:
    """What comes before the classifier, and the classifier."""
    if not hidden:
        return nn.Identity(), nn.Linear(width, num_classes)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU()), nn.Linear(hidden, num_classes)


def _real(input_ids: Tensor, attention_mask: Tensor | None, pad_id: int) -> Tensor:
    return input_ids != pad_id if attention_mask is None else attention_mask != 0


def _positive(what: str, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise LimbeckError(f"model {what!r}: expected {name} of 1 or more, got {value}")


TEXT_MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "text-ngrams": TextNgrams,
    "text-lstm": TextLSTM,
    "text-static": TextStatic,
}
"""Builders by name; each takes `num_classes`, `vocabulary` and `pad_id`, and its own whole numbers by name."""
