"""Multinomial logistic regression with an L2 penalty, along a path of penalties, by a preconditioned Newton method.

Minimised is what scikit-learn minimises with C = 1 / penalty, times the penalty:

    sum over the images of -log softmax(W x + b)[label]  +  penalty / 2 * |W|^2

with b unpenalised; of an image with several views, each a row of features, the mean over them. With two classes
scikit-learn has one row of weights, the difference of ours; its penalty then counts that row, and so it does here. A
class without an image has no optimum: it gets no weights, and a bias with which its logit is below all others.

A Newton step (Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 7.1) solves with the exact Hessian by
conjugate gradients. Their preconditioner is the Hessian as if all images had the average class probabilities: the
Kronecker product of a classes x classes and a features x features matrix. Along the features' principal axes, to which
they are turned once, and the eigenvectors of the other matrix it is diagonal. Products with the Hessian are float32:
along those axes rounding is relative to each axis's own spread, and it only bends a step, as gradient and loss have
more digits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import scipy.linalg
import torch
from torch import Tensor

# Of the features that are multiplied at a time: on a CPU they stay in its cache between the two products of a pass.
_CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}
# Up to so many numbers logits and gradients are computed from float64 features, beyond from float32: losses,
# probabilities and parameters are float64 in any case.
_DOUBLE_LIMIT = 2**25
# Conjugate gradients stop when their last steps together brought less than this share of the whole decrease.
_LAST_STEPS, _CG_SHARE = 4, 0.01
# Newton steps stop after one that promised to lower the loss by less than this share of it; and, once it is below the
# second, when they no longer halve: then they are lost in the rounding of float32.
_SHARE, _ROUNDING_SHARE = 1e-6, 1e-4
_MAX_NEWTON_STEPS, _MAX_CG_STEPS = 100, 500


@dataclass(frozen=True)
class LinearFit:
    """The optimum for one penalty.

    Attributes:
        penalty: 1 / C of scikit-learn.
        weight: float64 (C, F), `bias`: float64 (C,).
        loss: the minimised sum in nats, penalty included.
        passes: how often the features were read.
    """

    penalty: float
    weight: Tensor
    bias: Tensor
    loss: float
    passes: int

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of a linear head that is this layer."""
        return {"fc.weight": self.weight, "fc.bias": self.bias}

    def tempered(self, temperature: float) -> LinearFit:
        """Return the layer whose logits are divided by a temperature."""
        return replace(self, weight=self.weight / temperature, bias=self.bias / temperature)

    def adjusted(self, log_shares: Tensor) -> LinearFit:
        """Return the layer whose logits are less the logarithm of each class's share, (C,); see `log_class_shares`."""
        return replace(self, bias=self.bias - log_shares)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, C) of features (N, F), in float32 at least."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        return torch.addmm(self.bias.to(dtype), features.to(dtype), self.weight.T.to(dtype))


class LogisticRegression:
    """One data set, prepared to be fitted with many penalties.

    Args:
        features: of any floating type, on any device; all is computed there. Shape: (N, F)
        labels: class indices, int64. Shape: (N,)
        num_classes: also of classes without an image.
        views: rows of each image.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, views: int = 1) -> None:
        num_images = len(features)
        self.num_classes = num_classes
        self.views = views
        self.present, targets = torch.unique(labels, return_inverse=True)
        counts = torch.bincount(targets).double()
        self.frequency = counts / num_images
        self.targets = targets[None]
        dtype = torch.float64 if features.numel() <= _DOUBLE_LIMIT else torch.float32
        parts = torch.split(features, 4096)
        self.mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / num_images
        centred = ((part - self.mean).to(dtype) for part in parts)
        gram = torch.stack([(part.T @ part).double() for part in centred]).sum(0)
        variances, axes = symmetric_eigen(gram / num_images)
        # There are no more axes than images. Turning the features, in float64, leaves the penalty as it is.
        self.variances, self.axes = (t[..., -num_images:] for t in (variances.clamp(min=0), axes))
        # With the bias's ones as last column.
        self.features = features.new_ones((num_images, len(self.variances) + 1), dtype=dtype)
        for part, turned in zip(parts, torch.split(self.features[:, :-1], 4096), strict=True):
            turned.copy_((part - self.mean) @ self.axes)
        self.chunks = _chunks(self.features)
        self.float_chunks = _chunks(self.features.float())
        self.passes = 0

    def path(self, penalties: Iterable[float]) -> Iterator[LinearFit]:
        """Yield the optimum for each penalty in turn, each started from where the optima before it point.

        Few steps are needed from large penalties to small ones. Warns of an optimum that was not reached.
        """
        known: list[tuple[float, Tensor]] = []
        for penalty in penalties:
            if known:
                parameters = _extrapolate(known, math.log(penalty))
            else:
                parameters = self.features.new_zeros((len(self.present), self.features.shape[1]), dtype=torch.float64)
                parameters[:, -1] = self.frequency.log()
            fit, parameters = self._fit(penalty, parameters)
            known = [*known[-2:], (math.log(penalty), parameters)]
            yield fit

    def _fit(self, penalty: float, parameters: Tensor) -> tuple[LinearFit, Tensor]:
        first_pass = self.passes
        # The mean over the views has the optimum of the sum over them with as many times the penalty.
        ridge = parameters.new_full(parameters.shape[1:], self.views * penalty * (2 if len(self.present) == 2 else 1))
        ridge[-1] = 0
        logits = self._logits(parameters)
        loss, probabilities = self._loss(logits, parameters, ridge)
        before = math.inf
        for _ in range(_MAX_NEWTON_STEPS):
            errors = probabilities.scatter(0, self.targets, 0)
            errors.scatter_(0, self.targets, -errors.sum(0, keepdim=True))  # 1 - p would be rounded for p near 1
            gradient = self._gradient(errors) + ridge * parameters
            step = self._newton_step(gradient, probabilities, ridge)
            logits_step = self._logits(step)
            promised = -float((errors * logits_step).sum() + (ridge * parameters * step).sum()) / 2
            if promised <= 0 or before / 2 < promised < _ROUNDING_SHARE * loss:
                break
            before = promised
            size = 1.0
            while size > 1e-6:
                candidate = parameters + size * step, logits + size * logits_step
                lower, probabilities = self._loss(candidate[1], candidate[0], ridge)
                if lower <= loss - 2e-4 * size * promised:
                    break
                size /= 2
            else:  # rounding bent the step so far that it leads nowhere
                break
            (parameters, logits), loss = candidate, lower
            if promised <= _SHARE * loss:
                break
        else:
            warnings.warn(
                f"logistic regression with penalty {penalty:.3g}: {_MAX_NEWTON_STEPS} Newton steps did not reach the"
                f" optimum (loss {loss:.3g})",
                stacklevel=3,
            )
        return self._in_all_classes(penalty, parameters, logits, loss, self.passes - first_pass), parameters

    def _loss(self, logits: Tensor, parameters: Tensor, ridge: Tensor) -> tuple[float, Tensor]:
        log_probabilities = logits.log_softmax(0)
        loss = (ridge * parameters.square()).sum() / 2 - log_probabilities.gather(0, self.targets).sum()
        return float(loss), log_probabilities.exp_()

    def _logits(self, parameters: Tensor) -> Tensor:
        """Return float64 logits. Shape: (C, N)"""
        self.passes += 1
        weights = parameters.to(self.features.dtype)
        return torch.cat([weights @ chunk.T for chunk in self.chunks], 1).double()

    def _gradient(self, errors: Tensor) -> Tensor:
        self.passes += 1
        columns = torch.split(errors.to(self.features.dtype), len(self.chunks[0]), 1)
        gradient = self.features.new_zeros((errors.shape[0], self.features.shape[1]))
        for chunk, error in zip(self.chunks, columns, strict=True):
            gradient.addmm_(error, chunk)
        return gradient.double()

    def _curvature(self, direction: Tensor, probabilities: tuple[Tensor, ...]) -> Tensor:
        """Return the Hessian of the summed losses times a direction."""
        self.passes += 1
        weights = direction.float()
        product = torch.zeros_like(weights)
        for chunk, p in zip(self.float_chunks, probabilities, strict=True):
            weighted = p * (weights @ chunk.T)
            product.addmm_(weighted - p * weighted.sum(0), chunk)
        return product.double()

    def _newton_step(self, gradient: Tensor, probabilities: Tensor, ridge: Tensor) -> Tensor:
        """Solve Hessian x step = -gradient; return the step in float64."""
        covariance = torch.diag(probabilities.sum(1)) - probabilities @ probabilities.T
        spread, basis = symmetric_eigen(covariance)
        spread = spread.clamp(min=1e-12 * float(spread.max()) + 1e-300)
        spread[0] = spread[-1]  # of the same change of all logits, which changes nothing: it must not be magnified

        variances = torch.cat([self.variances, self.variances.new_ones(1)])
        scale = torch.outer(spread, variances) + ridge

        def precondition(residual: Tensor) -> Tensor:
            solved = basis @ ((basis.T @ residual) / scale)
            return solved - solved.mean(0)  # the same change of all logits changes nothing, and its spread is zero

        chunks = torch.split(probabilities.float(), len(self.float_chunks[0]), 1)
        step, residual = torch.zeros_like(gradient), -gradient
        direction = solved = precondition(residual)
        power = float((residual * solved).sum())
        gains: list[float] = []
        while power > 0 and len(gains) < _MAX_CG_STEPS:
            product = self._curvature(direction, chunks) + ridge * direction
            curvature = float((direction * product).sum())
            if curvature <= 0:
                break
            size = power / curvature
            step += size * direction
            residual = residual - size * product
            gains.append(size * power)
            if len(gains) > _LAST_STEPS and sum(gains[-_LAST_STEPS:]) <= _CG_SHARE * sum(gains):
                break
            solved = precondition(residual)
            before, power = power, float((residual * solved).sum())
            direction = solved + (power / before) * direction
        return step

    def _in_all_classes(
        self, penalty: float, parameters: Tensor, logits: Tensor, loss: float, passes: int
    ) -> LinearFit:
        weight = parameters.new_zeros((self.num_classes, len(self.mean)))
        weight[self.present] = parameters[:, :-1] @ self.axes.T
        bias = parameters.new_full((self.num_classes,), float(logits.min()) - math.log(logits.shape[1]))
        bias[self.present] = parameters[:, -1]
        return LinearFit(penalty, weight, bias - weight @ self.mean, loss / self.views, passes)


def _chunks(features: Tensor) -> tuple[Tensor, ...]:
    chunk_bytes = _CHUNK_BYTES.get(features.device.type, _CHUNK_BYTES["cpu"])
    return torch.split(features, max(1, chunk_bytes // (features.element_size() * features.shape[1])))


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues in rising order, and eigenvectors; torch's MKL fails on matrices of low rank."""
    values, vectors = scipy.linalg.eigh(matrix.cpu().numpy())
    return torch.from_numpy(values).to(matrix.device), torch.from_numpy(vectors).to(matrix.device)


def _extrapolate(known: list[tuple[float, Tensor]], position: float) -> Tensor:
    """Return the value at `position` of the polynomial through the known (position, tensor) pairs."""
    value = torch.zeros_like(known[0][1])
    for own, tensor in known:
        others = [other for other, _ in known if other != own]
        value += math.prod((position - other) / (own - other) for other in others) * tensor
    return value
