"""Markov chains whose exact denoiser is known by enumeration: networks of masked diffusion without a network."""

import itertools
import math

import torch

CHAIN_A = ((0.6, 0.4), ((0.8, 0.2), (0.3, 0.7)))
CHAIN_B = ((0.5, 0.3, 0.2), ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.25, 0.25, 0.5)))


class Chain:
    """Every text of a length with its probability; the mask is the symbol V."""

    def __init__(self, chain, length, power=1.0):
        start, rows = (torch.tensor(part, dtype=torch.float64) for part in chain)
        self.size, self.length, self.power = len(start), length, power
        self.texts = torch.tensor(list(itertools.product(range(self.size), repeat=length)))
        self.p = start[self.texts[:, 0]].clone()
        for before, after in itertools.pairwise(range(length)):
            self.p = self.p * rows[self.texts[:, before], self.texts[:, after]]

        states = itertools.product(range(self.size + 1), repeat=length)
        self.table = self._predict(torch.tensor(list(states)))

    def predict(self, ids):
        """Log-probabilities of each place given the visible ones, (B, L, V), to a power and renormalized."""
        return self.table[(ids * (self.size + 1) ** torch.arange(self.length - 1, -1, -1)).sum(-1)]

    def _predict(self, ids):
        visible = ids != self.size
        fits = ((ids.unsqueeze(1) == self.texts) | ~visible.unsqueeze(1)).all(-1) * self.p
        of = torch.nn.functional.one_hot(self.texts, self.size).double()
        found = torch.einsum("bn,nlv->blv", fits, of) / fits.sum(-1).view(-1, 1, 1)
        return (self.power * found.log()).log_softmax(-1)

    def curve_of_each(self):
        """f(1..L) of every text, (N, L), by all masks."""
        found = []
        for n in range(1, self.length + 1):
            values = []
            for places in itertools.combinations(range(self.length), n):
                hidden = self.texts.clone()
                hidden[:, list(places)] = self.size
                nats = -self.predict(hidden).gather(-1, self.texts.unsqueeze(-1)).squeeze(-1)
                values.append(nats[:, list(places)].mean(-1))
            found.append(torch.stack(values).mean(0))
        return torch.stack(found, 1)

    def curve(self):
        return (self.p.unsqueeze(-1) * self.curve_of_each()).sum(0).tolist()

    @property
    def entropy(self):
        return float(-(self.p * self.p.log()).sum())

    def law_of(self, ids):
        """Share of every text among sampled ones, (N,)."""
        place = (ids * self.size ** torch.arange(self.length - 1, -1, -1)).sum(-1)
        return torch.bincount(place, minlength=len(self.p)).double() / len(ids)

    def kl(self, ids):
        """KL of the chain from the law of sampled texts."""
        return float((self.p * (self.p / self.law_of(ids)).log()).sum())

    def law_by_drawn_confidence(self):
        """Law of "draw all, keep the most confident drawn", one place a step, by enumeration: (N,).

        Of equally likely symbols the first one is kept.
        """
        law, left = torch.zeros_like(self.p), {(self.size,) * self.length: 1.0}
        for _ in range(self.length):
            after = {}
            for state, mass in left.items():
                places = [i for i, symbol in enumerate(state) if symbol == self.size]
                p = self.predict(torch.tensor([state]))[0].exp().tolist()
                for drawn in itertools.product(range(self.size), repeat=len(places)):
                    sure = [p[i][symbol] for i, symbol in zip(places, drawn, strict=True)]
                    best = sure.index(max(sure))
                    kept = (*state[: places[best]], drawn[best], *state[places[best] + 1 :])
                    after[kept] = after.get(kept, 0.0) + mass * math.prod(sure)
            left = after
        for number, text in enumerate(self.texts.tolist()):
            law[number] = left.get(tuple(text), 0.0)
        return law


class Rows:
    """Noise of a batch from one generator: as many independent numbers as `SeededNoise` gives, much sooner."""

    def __init__(self, count, seed=0):
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def uniform(self, *shape):
        return torch.rand((self.count, *shape), generator=self.generator)
