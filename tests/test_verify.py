"""The laws of `phin verify`: they hold, and each of them finds a fault that is put into the source."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from phin.cli import main
from phin.verify import CHAPTERS, Case, Law, Unit, laws
from phin.verify.page import typeset
from phin.verify.plots import PLOTS
from phin.verify.run import chosen

ROOT = Path(__file__).parents[1]
NAMES = [law.name for chapter in laws().values() for law in chapter]

ORACLE, LEVEL, SCHEDULES = "phin.oracle", "phin.diffusion.level", "phin.diffusion.schedules"
PARAMETERIZATION, DENOISER = "phin.diffusion.parameterization", "phin.diffusion.denoiser"
WEIGHTS, LOSSES, OBJECTIVES = "phin.diffusion.weights", "phin.diffusion.losses", "phin.diffusion.objectives"
BOUND, DECODER, ODE = "phin.diffusion.bound", "phin.diffusion.decoder", "phin.diffusion.ode"
GUIDANCE, BASE = "phin.diffusion.guidance", "phin.diffusion.solvers.base"
ANCESTRAL, MULTISTEP = "phin.diffusion.solvers.ancestral", "phin.diffusion.solvers.multistep"
RUNGE_KUTTA, EXPONENTIAL = "phin.diffusion.solvers.runge_kutta", "phin.diffusion.solvers.exponential"
SDE, LANGEVIN = "phin.diffusion.solvers.sde", "phin.diffusion.solvers.langevin"
EDITING, DEQUANTIZATION = "phin.diffusion.editing", "phin.diffusion.dequantization"

FAULTS: dict[str, tuple[str, str, str]] = {
    # ground
    "The evidence": (ORACLE, "self._joint(z, level).logsumexp(-1)", "self._joint(z, level).amax(-1)"),
    "Jensen's gap": (ORACLE, "off @ torch.linalg.solve(other.cov, off)", "off @ off"),
    "KL of two Gaussians": (ORACLE, "- len(off) + volume", "- len(off) - volume"),
    "KL is not symmetric": (ORACLE, "solve(other.cov, self.cov)", "solve(self.cov, other.cov)"),
    "KL is least at equality": (
        ORACLE,
        "1 / self._variance(level), z - level.alpha * self.mean",
        "1 / self._variance(level), z - self.mean",
    ),
    "Entropy of a Gaussian": (ORACLE, "math.pi * math.e * self.axes[0]", "math.pi * self.axes[0]"),
    "Noising is a convolution": (ORACLE, "level.alpha**2 * self.axes[0]", "level.alpha * self.axes[0]"),
    "The undamped walk diverges": (
        LEVEL,
        "torch.exp(-0.5 * log_snr), log_snr",
        "torch.exp(-0.4 * log_snr), log_snr",
    ),
    "A small T leaves x_T far from noise": (
        SCHEDULES,
        "torch.log(-torch.expm1(log_alpha_bar))",
        "torch.log(-log_alpha_bar)",
    ),
    "The posterior mean": (ORACLE, "gain = level.alpha * self.axes[0]", "gain = self.axes[0]"),
    "Tweedie's formula": (
        ORACLE,
        "Prediction(_average(self.class_log_prob(z, level).exp(), means))",
        "Prediction(_average(self.weights, means))",
    ),
    "Tweedie's formula, second order": (ORACLE, "level.sigma**2 * c /", "level.sigma * c /"),
    "Total variance": (ORACLE, "spread = covs + off", "spread = covs + 0 * off"),
    "Change of variables": (
        ORACLE,
        "(self._variance(s) / self._variance(t)).sqrt()",
        "(self._variance(s) / self._variance(t))",
    ),
    "Instantaneous change of variables": (
        ORACLE,
        "return s.alpha * self.mean + self._scaled",
        "return t.alpha * self.mean + self._scaled",
    ),
    "Information and error": (ORACLE, "off = means - _average(weights, means).unsqueeze(-2)", "off = means"),
    "De Bruijn's identity": (
        ORACLE,
        "_average(self.class_log_prob(z, level).exp(), scores)",
        "_average(self.weights, scores)",
    ),
    "Diffusion forgets": (
        SCHEDULES,
        "grad(self.log_snr(t).sum(), t)[0]",
        "grad(self.log_snr(t).sum(), t)[0] / 2",
    ),
    # forward
    "Steps merge into one": (SCHEDULES, "self.beta_max / T, T", "0.99 * self.beta_max / T, T"),
    "Marginals by simulation": (
        LEVEL,
        "torch.sigmoid(-log_snr).sqrt(), log_snr",
        "torch.sigmoid(-log_snr), log_snr",
    ),
    "The forward posterior": (ANCESTRAL, "(t.alpha * s.sigma**2)", "(s.alpha * s.sigma**2)"),
    "The reverse step has its exact mean": (ANCESTRAL, "s.alpha * c * prediction.x", "c * prediction.x"),
    "Two variances are right": (ANCESTRAL, "large = t.sigma", "large = s.sigma"),
    "The learned variance": (
        ANCESTRAL,
        "s.sigma ** (1 - frac) * large**frac",
        "((1 - frac) * s.sigma + frac * large)",
    ),
    "The mean in terms of the noise": (
        ANCESTRAL,
        "c = -torch.expm1(t.log_snr - s.log_snr)",
        "c = -torch.expm1(t.log_snr - s.log_snr) / 2",
    ),
    "The chain's variance, step by step": (LEVEL, "torch.sigmoid(-0.5 * log_snr)", "torch.sigmoid(-log_snr)"),
    "The variance of an SDE": (SCHEDULES, "(low - high) * rise", "(low - high) / 2 * rise"),
    "The VP SDE": (
        SCHEDULES,
        "0.5 * (self.beta_max - self.beta_min) * u * u",
        "(self.beta_max - self.beta_min) * u * u",
    ),
    "The sub-VP SDE": (SCHEDULES, "-b - 2 * torch.log(-torch.expm1(-b))", "-b - torch.log(-torch.expm1(-b))"),
    "The VE SDE": (
        SCHEDULES,
        "-2 * math.log(sigma_min), -2 * math.log(sigma_max)",
        "-math.log(sigma_min), -math.log(sigma_max)",
    ),
    "The Fokker-Planck equation": (
        SCHEDULES,
        "grad(self.log_snr(t).sum(), t)[0]",
        "grad(self.log_snr(t).sum(), t)[0] * 2",
    ),
    "The probability flow": (
        ANCESTRAL,
        "return s.alpha * x + s.sigma * eps, None",
        "return s.alpha * x + t.sigma * eps, None",
    ),
    "Ancestral sampling is the reverse SDE": (
        ANCESTRAL,
        "c.sqrt() * s.sigma ** (1 - frac)",
        "c * s.sigma ** (1 - frac)",
    ),
    "The reverse SDE has the same marginals": (
        ORACLE,
        "gain = level.alpha * self.axes[0]",
        "gain = self.axes[0]",
    ),
    "All scalings are one process": (LEVEL, "torch.sigmoid(-0.5 * log_snr)", "torch.sigmoid(-log_snr)"),
    "A long chain is the SDE": (SCHEDULES, "self.beta_max / T, T", "0.9 * self.beta_max / T, T"),
    "Nothing is left at the end": (SCHEDULES, "self.beta_max / T, T", "0.9 * self.beta_max / T, T"),
    # schedules
    "The signal-to-noise ratio": (LEVEL, "torch.sigmoid(-0.5 * log_snr)", "torch.sigmoid(-log_snr)"),
    "Variance preserving": (LEVEL, "torch.sigmoid(log_snr).sqrt()", "torch.sigmoid(log_snr)"),
    "Variance exploding": (LEVEL, "torch.exp(-0.5 * log_snr), log_snr", "torch.exp(-log_snr), log_snr"),
    "Sub-VP": (
        LEVEL,
        "return Level(r * sigma, sigma, log_snr)",
        "return Level(0.9 * r * sigma, sigma, log_snr)",
    ),
    "Straight lines": (LEVEL, "torch.sigmoid(0.5 * log_snr)", "torch.sigmoid(log_snr)"),
    "The linear schedule": (SCHEDULES, "return self.beta_min * u + 0.5 *", "return 0.5 *"),
    "The linear sub-VP schedule": (
        SCHEDULES,
        "-b - 2 * torch.log(-torch.expm1(-b))",
        "-b - torch.log(-torch.expm1(-b))",
    ),
    "The cosine schedule": (SCHEDULES, "self.origin = s / (1 + s) * math.pi / 2", "self.origin = 0.0"),
    "The sigmoid schedule": (
        SCHEDULES,
        "torch.log(torch.sinh(half * u)) + self.constant",
        "torch.log(torch.sinh(half * u))",
    ),
    "The geometric schedule": (
        SCHEDULES,
        "return self.start + (self.end - self.start) * t",
        "return self.start + (self.end - self.start) * t * t",
    ),
    "EDM's sampling grid": (SCHEDULES, "return -2 * self.rho * torch.log", "return -2 * torch.log"),
    "EDM's training density": (
        SCHEDULES,
        "- self.mean) / self.std",
        "- self.mean) / (1.1 * self.std)",
    ),
    "The straight path": (
        SCHEDULES,
        "2 * (torch.log1p(-u) - torch.log(u))",
        "torch.log1p(-u) - torch.log(u)",
    ),
    "DDPM's table": (SCHEDULES, "torch.linspace(self.beta_min / T,", "torch.linspace(self.beta_max / T,"),
    "Improved DDPM's table": (SCHEDULES, "_MAX_BETA = 0.999", "_MAX_BETA = 0.99"),
    "The slope of a schedule": (
        SCHEDULES,
        "grad(self.log_snr(t).sum(), t)[0]",
        "grad(self.log_snr(t).sum(), t)[0] / 2",
    ),
    "A schedule is invertible": (
        SCHEDULES,
        "torch.exp(log_snr / (-2 * self.rho))",
        "torch.exp(log_snr / -self.rho)",
    ),
    "Schedules fall": (
        SCHEDULES,
        "torch.linspace(1.0, 0.0, steps",
        "torch.linspace(0.0, 1.0, steps",
    ),
    "Steps taken out of a chain": (
        SCHEDULES,
        "torch.linspace(self.T, 1, steps",
        "torch.linspace(self.T, 0, steps",
    ),
    "A uniform time draws every step alike": (
        SCHEDULES,
        "torch.ceil(t.double() * self.T",
        "torch.round(t.double() * self.T",
    ),
    "Stratified times are uniform": (LOSSES, "+ uniform) / len(uniform)", "+ uniform) / (len(uniform) + 1)"),
    "Antithetic times are uniform": (LOSSES, "torch.cat([half, 1 - half])", "torch.cat([half, half])"),
    "Time is only a density of levels": (SCHEDULES, "(low - high) * rise", "(low - high) / 2 * rise"),
    # parameterizations
    "Predicting the data": (
        PARAMETERIZATION,
        "return torch.zeros_like(level.sigma)",
        "return torch.ones_like(level.sigma)",
    ),
    "Predicting the noise": (
        PARAMETERIZATION,
        "1 / level.alpha, -level.sigma / level.alpha",
        "1 / level.alpha, level.sigma / level.alpha",
    ),
    "Predicting v": (PARAMETERIZATION, "-level.sigma / square.sqrt()", "-level.sigma / square"),
    "Predicting the score": (
        PARAMETERIZATION,
        "level.sigma**2 / (level.alpha * scale)",
        "level.sigma / (level.alpha * scale)",
    ),
    "Predicting the velocity": (
        PARAMETERIZATION,
        "1 / total, -level.sigma / total",
        "1 / total, -level.alpha / total",
    ),
    "The velocity moves z": (
        PARAMETERIZATION,
        "1 / total, -level.sigma / total",
        "1 / total, level.sigma / total",
    ),
    "EDM's preconditioning": (
        PARAMETERIZATION,
        "level.alpha * self.sigma_data**2 / variance",
        "level.alpha * self.sigma_data / variance",
    ),
    "EDM's output has unit variance": (
        PARAMETERIZATION,
        "level.sigma * self.sigma_data / variance.sqrt()",
        "level.sigma * self.sigma_data / variance",
    ),
    "EDM amplifies errors least": (
        PARAMETERIZATION,
        "level.sigma**2 + (level.alpha * self.sigma_data) ** 2",
        "level.sigma**2 + level.alpha**2",
    ),
    "A prediction is a prediction": (DENOISER, "skip * z + out * raw.to(z)", "out * raw.to(z)"),
    "The network's input has unit variance": (DENOISER, "z * variance.rsqrt()", "z / variance"),
    # losses
    "L_simple": (LOSSES, "weight(level.log_snr) * torch.exp(level.log_snr)", "weight(level.log_snr)"),
    "The v loss": (WEIGHTS, "return 1 + torch.exp(-log_snr)\n", "return 1 + torch.exp(log_snr)\n"),
    "The truncated loss": (WEIGHTS, "torch.exp(-log_snr).clamp(min=1)", "torch.exp(-log_snr).clamp(max=1)"),
    "Min-SNR": (
        WEIGHTS,
        "(gamma * torch.exp(-log_snr)).clamp(max=1)",
        "(gamma * torch.exp(-log_snr)).clamp(min=1)",
    ),
    "Perception prioritized": (
        WEIGHTS,
        "(k + torch.exp(log_snr)) ** -gamma",
        "(k + torch.exp(log_snr)) ** gamma",
    ),
    "The sigmoid weight": (WEIGHTS, "torch.sigmoid(bias - log_snr)", "torch.sigmoid(bias + log_snr)"),
    "EDM's loss": (WEIGHTS, "torch.exp(-log_snr) / sigma_data**2", "torch.exp(-log_snr) / sigma_data"),
    "The flow-matching loss": (
        LOSSES,
        "level.alpha * x + level.sigma * noise(x)",
        "level.alpha * x + noise(x)",
    ),
    "The weight of the likelihood": (
        WEIGHTS,
        "-schedule.slope(schedule.inverse(log_snr))",
        "-schedule.slope(1 - schedule.inverse(log_snr))",
    ),
    "The least loss is the posterior variance": (ORACLE, "level.sigma**2 * c /", "level.sigma * c /"),
    "Denoising learns the score": (
        LOSSES,
        "(x - denoise(z, level).x).square()",
        "(x - denoise(z, level).x).abs()",
    ),
    "Score matching without the score": (
        ORACLE,
        "1 / self._variance(level), z - level.alpha * self.mean",
        "1 / self._variance(level), z - self.mean",
    ),
    "The denoiser is the best guess": (
        LOSSES,
        "* error).flatten(1).mean(1)",
        "* error).flatten(1).mean(1) / 2",
    ),
    "The exact denoiser is the minimum": (ORACLE, "gain = level.alpha * self.axes[0]", "gain = self.axes[0]"),
    "Importance sampling of t is unbiased": (
        LOSSES,
        ".double().square().mean(1).sqrt()",
        ".double().mean(1)",
    ),
    # bounds
    "The prior term": (BOUND, "(x.flatten(1).square() - 1)", "x.flatten(1).square()"),
    "KL of two normals, number by number": (
        BOUND,
        "torch.expm1(ratio) - ratio + off",
        "torch.expm1(ratio) + ratio + off",
    ),
    "A step of the chain": (BOUND, "torch.exp(level.log_snr - f * r)", "torch.exp(level.log_snr)"),
    "A step in terms of the noise": (
        BOUND,
        "weight = 0.5 * torch.expm1(-schedule.table.diff())",
        "weight = torch.expm1(-schedule.table.diff())",
    ),
    "L_simple is a reweighting": (
        BOUND,
        "0.5 * (torch.expm1(-frac * r) + frac * r))",
        "0.5 * torch.expm1(-frac * r))",
    ),
    "Predicting the mean is predicting the data": (
        BOUND,
        "kl = 0.5 * (torch.expm1(-f * r)",
        "kl = 1.0 * (torch.expm1(-f * r)",
    ),
    "VDM's discrete loss": (
        BOUND,
        "torch.expm1(schedule.log_snr(i / steps) - log_snr) * torch.exp(log_snr)",
        "torch.expm1(schedule.log_snr(i / steps) - log_snr)",
    ),
    "VDM's continuous loss": (BOUND, "-0.5 * schedule.slope(times)", "-schedule.slope(times)"),
    "T → ∞": (BOUND, "0.5 * steps * torch.expm1", "0.6 * steps * torch.expm1"),
    "More steps are better": (BOUND, "0.5 * steps * torch.expm1", "steps * torch.expm1"),
    "The schedule's interior does not matter": (
        BOUND,
        "schedule.slope(times)",
        "schedule.slope(0.5 + 0 * times)",
    ),
    "The interior descends the variance": (
        SCHEDULES,
        "factor = loss.detach() / loss.detach().mean()",
        "factor = torch.ones_like(loss)",
    ),
    "The continuous bound is tight": (
        DECODER,
        "precision = 1 / variance + torch.exp",
        "precision = torch.exp",
    ),
    "The gap of a finite T": (
        BOUND,
        "log_snr = schedule.log_snr((i + 1) / steps)",
        "log_snr = schedule.log_snr((i + 0.5) / steps)",
    ),
    "DDPM's objective, whole": (BOUND, "count = schedule.T - 1", "count = schedule.T - 2"),
    "The earlier bound is the same": (
        BOUND,
        "reverse_log_var = torch.log(c * now.sigma**2) + f * r",
        "reverse_log_var = torch.log(c * now.sigma**2)",
    ),
    "The discretised Gaussian sums to one": (DECODER, "torch.where(k == bins - 1", "torch.where(k == bins"),
    "The discretised Gaussian is an integral": (
        DECODER,
        "(2 * k + side) / (bins - 1)",
        "(2 * k + side) / bins",
    ),
    "The categorical decoder is Bayes' rule": (DECODER, "-0.5 * snr", "-snr"),
    "The Gaussian decoder is the posterior": (DECODER, "- torch.log(precision))", "+ torch.log(precision))"),
    "Bits a dimension": (BOUND, "nats / (dims * math.log(2))", "nats / dims"),
    "The entropy is all the error there is": (
        ORACLE,
        "off = means - _average(weights, means).unsqueeze(-2)",
        "off = means",
    ),
    "The hybrid objective": (OBJECTIVES, "prediction._replace(x=prediction.x.detach())", "prediction"),
    # likelihood
    "Likelihood by the ODE": (
        ODE,
        "size.log().flatten() + math.log(share) / 2",
        "size.log().flatten() + math.log(share)",
    ),
    "The error is what was asked for": (ODE, "norm(off / (atol", "norm(1e-4 * off / (atol"),
    "The ODE's density is a density": (ODE, "traces.double() / dims], 1)", "-traces.double() / dims], 1)"),
    "The ODE's density is that of its map": (
        ODE,
        "traces.double() / dims], 1)",
        "0.9 * traces.double() / dims], 1)",
    ),
    "The ODE's solution": (ODE, "return a / 2 * (_predict", "return a * (_predict"),
    "Dormand-Prince is of order 5": (ODE, "-212 / 729", "-211 / 729"),
    "The order conditions": (ODE, "187 / 2100, 1 / 40", "187 / 2100, 1 / 41"),
    "Hutchinson's estimator is unbiased": (
        ODE,
        "2.0 * generator.integers(0, 2, shape) - 1.0",
        "2.0 * generator.integers(0, 2, shape)",
    ),
    "Hutchinson's variance": (
        ODE,
        "return generator.standard_normal(shape)",
        "return rademacher(generator, shape)",
    ),
    "The exact trace": (
        ODE,
        "_gradient(flat[:, i], z).flatten(1)[:, i]",
        "_gradient(flat[:, i], z).flatten(1)[:, 0]",
    ),
    "A likelihood with its standard error": (
        ODE,
        "values.std(1) / math.sqrt(self.probes)",
        "values.std(1) / self.probes",
    ),
    "Dequantization bounds the likelihood": (
        DEQUANTIZATION,
        "math.log((bins - 1) / 2)",
        "math.log(bins / 2)",
    ),
    # solvers
    "The order of ODE solvers": (MULTISTEP, "h / (2 * (now - memory.at))", "h / (now - memory.at)"),
    "The weak order of SDE solvers": (SDE, "h / (2 * (now - memory.at))", "h / (now - memory.at)"),
    "The order on a mixture": (RUNGE_KUTTA, "(eps_end - eps) / 2", "(eps_end - eps) / 3"),
    "Data at a point take one step": (
        EXPONENTIAL,
        "s.sigma / t.sigma * z + s.alpha * integral",
        "s.alpha / t.alpha * z + s.alpha * integral",
    ),
    "DDIM without noise is Euler's method": (
        ANCESTRAL,
        "return s.alpha * x + s.sigma * eps, None",
        "return t.alpha * x + s.sigma * eps, None",
    ),
    "DDIM with all its noise is DDPM": (
        ANCESTRAL,
        "self.eta * c.sqrt() * noise(z)",
        "self.eta * c * noise(z)",
    ),
    "DDIM's noise": (ANCESTRAL, "self.eta * c.sqrt() * noise(z)", "self.eta**2 * c.sqrt() * noise(z)"),
    "DDIM keeps the marginals for every η": (
        ANCESTRAL,
        "(1 - self.eta**2 * c).sqrt()",
        "(1 - self.eta * c).sqrt()",
    ),
    "Variation of constants": (
        ORACLE,
        "(self._variance(s) / self._variance(t)).sqrt()",
        "(self._variance(s) / self._variance(t))",
    ),
    "Exponential integrators integrate polynomials": (
        EXPONENTIAL,
        "1 - k / h * moments[-1]",
        "1 + k / h * moments[-1]",
    ),
    "DEIS tends to Adams-Bashforth": (MULTISTEP, "*(memory or ()))[:4]", "*(memory or ()))[:3]"),
    "DPM-Solver++(2M)": (MULTISTEP, "h / (2 * (now - memory.at))", "(now - memory.at) / (2 * h)"),
    "Heun's method": (RUNGE_KUTTA, "(s.sigma - s.alpha * t.sigma / t.alpha)", "(s.sigma - t.sigma)"),
    "The SDE solver's noise": (SDE, "torch.expm1(-2 * self.eta * h)", "torch.expm1(-self.eta * h)"),
    "Reverse diffusion": (SDE, "(1 - t.alpha / s.alpha) * z", "(s.alpha / t.alpha - 1) * z"),
    "Langevin's bias": (
        LANGEVIN,
        "size * _score(denoise, z, s) + (2 * size).sqrt()",
        "size * _score(denoise, z, s) + size.sqrt()",
    ),
    "The corrector's step size": (LANGEVIN, "size = 2 * self.snr**2 * ratio", "size = self.snr**2 * ratio"),
    "Churn moves up a level": (SDE, "(gamma * (2 + gamma)).sqrt()", "gamma.sqrt()"),
    "The result does not depend on the scaling": (
        RUNGE_KUTTA,
        "s.sigma * (z - t.alpha * x) / t.sigma",
        "s.sigma * (z - x) / t.sigma",
    ),
    "The prior": (
        BASE,
        "torch.hypot(level.alpha, level.sigma) * noise(like)",
        "(level.alpha + level.sigma) * noise(like)",
    ),
    "SDE and ODE end in the same law": (
        ANCESTRAL,
        "c.sqrt() * s.sigma ** (1 - frac)",
        "0.5 * c.sqrt() * s.sigma ** (1 - frac)",
    ),
    # guidance
    "Guidance at scale 0 and 1": (
        GUIDANCE,
        "if scale == 1:\n            return cond(z, level)",
        "if scale == 1:\n            return null(z, level)",
    ),
    "The noisy classifier": (
        ORACLE,
        "self._joint(z, level).log_softmax(-1)",
        "self._joint(z, CLEAN).log_softmax(-1)",
    ),
    "Guidance is the gradient of a classifier": (
        ORACLE,
        "gain = level.alpha * self.axes[0]",
        "gain = self.axes[0]",
    ),
    "Classifier guidance at scale 1 is exact": (
        GUIDANCE,
        "level.sigma**2 / level.alpha * gradient",
        "level.sigma**2 * gradient",
    ),
    "A classifier and no classifier are one": (
        GUIDANCE,
        "prediction.x + scale * level",
        "prediction.x - scale * level",
    ),
    "Guidances add up": (GUIDANCE, "x = n.x + scale * (c.x - n.x)", "x = c.x + scale * (c.x - n.x)"),
    "Guidance is the score of a tilt, level by level": (
        GUIDANCE,
        "x = n.x + scale * (c.x - n.x)",
        "x = n.x + (1 + scale) * (c.x - n.x)",
    ),
    "Guidance is not diffusion of the tilted data": (
        GUIDANCE,
        "x = n.x + scale * (c.x - n.x)",
        "x = n.x + scale**2 * (c.x - n.x)",
    ),
    "Without noise it is": (GUIDANCE, "x = n.x + scale * (c.x - n.x)", "x = c.x + scale * (c.x - n.x)"),
    "Guidance of equal classes only shifts": (
        GUIDANCE,
        "x = n.x + scale * (c.x - n.x)",
        "x = n.x + 0.9 * scale * (c.x - n.x)",
    ),
    "Guidance at scale 1 samples the class": (
        GUIDANCE,
        "level.sigma**2 / level.alpha * gradient",
        "level.sigma**2 * gradient",
    ),
    "The classes make the whole": (ORACLE, "gain = level.alpha * self.axes[0]", "gain = self.axes[0]"),
    "Guidance in an interval": (
        GUIDANCE,
        "(level.log_snr > low) & (",
        "(level.log_snr > low) | (",
    ),
    "Rescaled guidance": (GUIDANCE, "rescale * ratio + (1 - rescale)", "rescale * ratio + 1"),
    "Thresholding": (
        GUIDANCE,
        "place = quantile * (ascending",
        "place = 1.0 * (ascending",
    ),
    # latents
    "Encoding keeps quantiles": (ODE, "return a / 2 * (_predict", "return a / 2.1 * (_predict"),
    "There and back": (
        ODE,
        "solution._replace(y=solution.y / clean.alpha)",
        "solution._replace(y=solution.y)",
    ),
    "DDIM's inversion": (ODE, "z: Tensor = levels.at(-1).alpha * x", "z: Tensor = x"),
    "The great circle": (EDITING, "(w * theta).sin() / safe.sin()", "w.sin() / safe.sin()"),
    "Latents between latents stay noise": (EDITING, "((1 - w) * theta).sin() / safe.sin()", "1 - w"),
    "Up again by the forward process": (
        EDITING,
        "(-torch.expm1(t.log_snr - s.log_snr)).sqrt() * t.sigma",
        "-torch.expm1(t.log_snr - s.log_snr) * t.sigma",
    ),
    "One noise for both ends": (EDITING, "mixed = ((1 - w) * a + w * b)", "mixed = (w * a + (1 - w) * b)"),
    "A variation is a draw from the posterior": (
        EDITING,
        "return level.alpha * x + level.sigma * noise(x)",
        "return level.alpha * x + 0.5 * level.sigma * noise(x)",
    ),
    "Repainting fits what is known": (
        EDITING,
        "z = torch.where(known, diffuse(x, level, noise), z)",
        "z = torch.where(known, diffuse(0 * x, level, noise), z)",
    ),
}
"""Law -> module, what stands in its source, and what is put there instead: the law must find it."""


class Mutant(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finds phin's modules as they are on the disk, but one with another text in the place of one."""

    def __init__(self, module: str, old: str, new: str) -> None:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        super().__init__(module, spec.origin)
        self.old, self.new = old, new

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        if fullname == "phin" or fullname.startswith("phin."):
            return importlib.machinery.PathFinder.find_spec(fullname, path, target)
        return None

    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew, and kept nowhere."""
        source = Path(self.path).read_text(encoding="utf-8")
        assert self.old in source, f"{self.old!r} does not stand in {self.path}"
        return compile(source.replace(self.old, self.new), str(self.path), "exec")


@contextmanager
def mutated(module: str, old: str, new: str) -> Iterator[ModuleType]:
    """A fresh `phin.verify` above a faulty module; torch stays loaded, and all is as it was afterwards."""
    finder = Mutant(module, old, new)
    own = {name: loaded for name, loaded in sys.modules.items() if name.split(".")[0] == "phin"}
    for name in own:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("phin.verify")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "phin"]:
            del sys.modules[name]
        sys.modules.update(own)


def test_names_are_unique_and_every_law_has_its_fault() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 100
    assert list(FAULTS) == NAMES


@pytest.fixture(scope="module")
def sound() -> ModuleType:
    """The laws without a fault, and without the checks of annotations, which would take most of the time."""
    with mutated(LEVEL, "", "") as verify:
        return verify


def named(verify: ModuleType, name: str) -> Law:
    (law,) = (law for chapter in verify.laws().values() for law in chapter if law.name == name)
    return law


@pytest.mark.parametrize("name", NAMES)
def test_a_law_finds_the_fault(name: str, sound: ModuleType) -> None:
    """And holds without it."""
    law = named(sound, name)
    found = law.measure()
    assert law.holds(found), found
    assert law.equation
    assert law.reference
    assert law.how
    with mutated(*FAULTS[name]) as verify:
        law = named(verify, name)
        found = law.measure()
        assert not law.holds(found), found


def test_a_mutant_leaves_nothing_behind() -> None:
    before = dict(sys.modules)
    with mutated(LEVEL, "torch.sigmoid(log_snr).sqrt()", "torch.sigmoid(log_snr)") as verify:
        assert verify is not before["phin.verify"]
        assert sys.modules["torch"] is before["torch"]
    assert {name: module for name, module in sys.modules.items() if name.startswith("phin")} == {
        name: module for name, module in before.items() if name.startswith("phin")
    }
    with (
        pytest.raises(AssertionError, match="does not stand in"),
        mutated(LEVEL, "what is not in the source", ""),
    ):
        pass


# --- the measuring itself


def made(unit: Unit, tolerance: float, *cases: Case) -> Law:
    return Law("a law", "1 = 1", "nobody, eq. 0", tolerance, unit, lambda: cases)


def test_the_worst_case_is_told() -> None:
    cases = [
        Case("good", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])),
        Case("bad", torch.tensor([1.0, 4.5, 10.0]), torch.tensor([1.0, 4.0, 10.0])),
        Case("fair", 1.01, 1.0),
    ]
    found = made(Unit.ABSOLUTE, 0.5, *cases).measure()
    assert (found.case, found.measured, found.expected, found.error, found.cases) == ("bad", 4.5, 4.0, 0.5, 3)
    assert made(Unit.ABSOLUTE, 0.5).holds(found)
    assert not made(Unit.ABSOLUTE, 0.49).holds(found)
    assert made(Unit.RELATIVE, 1.0, *cases).measure().error == pytest.approx(0.05)  # of the largest, 10
    assert made(Unit.DEVIATIONS, 1.0, Case("a", 1.5, 1.0, 0.25)).measure().error == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_fails(value: float) -> None:
    for unit in Unit:
        law = made(unit, 1e9, Case("fine", 1.0, 1.0), Case("broken", torch.tensor([1.0, value]), 1.0))
        found = law.measure()
        assert not law.holds(found)
        assert found.case == "broken"


# --- the command


def test_some_laws_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--only", "arXiv:2206.00364, eq. 5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [law["name"] for law in facts["laws"]] == ["EDM's sampling grid"]
    (law,) = facts["laws"]
    assert law["holds"] is True
    assert law["error"] <= law["tolerance"]
    assert law["cases"] == 3
    assert (facts["held"], facts["failed"]) == (1, 0)
    for text in ("latents", "sampling grid", "σ_max^{1/ρ}", "DDIM"):  # chapter, name, equation, paper
        assert {law.name for _, law in chosen(text)} < set(NAMES)
    assert [law.name for _, law in chosen()] == NAMES


def test_a_text_that_no_law_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--only", "phlogiston"]) == 2
    assert "'phlogiston'" in capsys.readouterr().err


def test_a_law_that_fails_is_told_and_exits_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    law = replace(made(Unit.RELATIVE, 0.1, Case("[odd]", float("nan"), 1.0)), name="A false law")
    monkeypatch.setitem(CHAPTERS, "latents", SimpleNamespace(law=law, __doc__="One law."))
    assert main(["verify", "--only", "false law"]) == 1
    said = capsys.readouterr().out
    assert "✗  A false law" in said
    assert "in the case of [odd]" in said
    assert "0 laws hold, 1 fail;" in said
    assert main(["verify", "--only", "false law", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert facts["laws"][0]["error"] is None


def test_the_table_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--only", "schedules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    text = " ".join(" ".join(lines).split())
    for law in laws()["schedules"]:
        assert f"✓ {law.name}" in text


def test_the_page_has_the_laws_and_explains_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chapter in CHAPTERS.items():  # the page of a law that held, for each of them
        fine = {
            key: replace(law, cases=lambda: [Case("a case", 0.0, 0.0)]) if isinstance(law, Law) else law
            for key, law in vars(chapter).items()
        }
        monkeypatch.setitem(CHAPTERS, name, SimpleNamespace(**fine))
    out = tmp_path / "report.html"
    assert main(["verify", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", text)
    assert text.count("<svg") >= len(PLOTS)
    assert text.count('<tr class="hold">') == len(NAMES)
    for heading, *_ in PLOTS.values():
        assert f"<h2>{escape(heading)}</h2>" in text
    for law in (law for chapter in laws().values() for law in chapter):
        assert typeset(law.equation) in text
        assert escape(law.reference) in text


def test_equations_are_set() -> None:
    assert typeset("x_t = e^{−λ_s/2} x_{t−1} < σ_min^2") == (
        "x<sub>t</sub> = e<sup>−λ<sub>s</sub>/2</sup> x<sub>t−1</sub> &lt; σ<sub>min</sub><sup>2</sup>"
    )


def test_the_theory_page_has_every_law() -> None:
    """In a line of its own; and what it sets in italics is the name of one."""
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    missing = [
        line
        for law in (law for chapter in laws().values() for law in chapter)
        if (line := f"- *{law.name}*: `{' '.join(law.equation.split())}` ({law.reference})\n") not in page
    ]
    assert not missing, f"docs/theory.md lacks\n{''.join(missing)}"
    italic = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", re.sub(r"`[^`\n]*`|\$[^$]*\$", "", page))
    assert set(italic) == set(NAMES)
