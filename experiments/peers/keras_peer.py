"""The paper's Keras notebook: its eager Python loop, and the same chain and update compiled by `tf.function`, without
and with XLA.

The network outputs the score, -E: it gets our weights with the last layer negated, and the chain climbs it.
"""

import random
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore (optional: the `bench` extra)

from bridge_ebm.settings import TrainSettings
from peers import FLOAT32_TOLERANCE, Peer

keras = tf.keras


def make_peer(variables: dict[str, Any], settings: TrainSettings, pictures: np.ndarray, mode: str) -> Peer:
    """The peer of one `mode`: 'eager', 'function' or 'xla'."""
    model = score_network(variables, settings.height, settings.width)
    chain = _make_chain(model, settings, mode)

    def run_chain(starts: np.ndarray, steps: int, noise: float) -> np.ndarray:
        return chain(tf.constant(starts), steps if mode == "eager" else tf.constant(steps), tf.constant(noise)).numpy()

    return Peer(
        f"keras_{mode}",
        FLOAT32_TOLERANCE,
        lambda images: -model(tf.constant(images)).numpy()[:, 0],
        run_chain,
        lambda: _make_update(variables, settings, pictures, mode),
    )


def score_network(variables: dict[str, Any], height: int, width: int) -> Any:
    """Table 1 as the notebook writes it, with our weights."""
    layers = [keras.layers.Input((height, width, 1))]
    for filters, size in ((32, 5), (64, 3), (128, 3), (128, 3)):
        layers.append(keras.layers.Conv2D(filters, kernel_size=size, strides=2, padding="same"))
        layers += [keras.layers.BatchNormalization(), keras.layers.Activation("swish")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="swish"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    params, stats = variables["params"], variables["batch_stats"]
    weights = []
    for index in range(4):
        conv, norm = params[f"Conv_{index}"], params[f"BatchNorm_{index}"]
        moving = stats[f"BatchNorm_{index}"]
        weights += [conv["kernel"], conv["bias"], norm["scale"], norm["bias"], moving["mean"], moving["var"]]
    weights += [params["Dense_0"]["kernel"], params["Dense_0"]["bias"]]
    weights += [-params["Dense_1"]["kernel"], -params["Dense_1"]["bias"]]
    model.set_weights([np.asarray(value) for value in weights])
    return model


def _make_chain(model: Any, settings: TrainSettings, mode: str) -> Any:
    """The notebook's `generate_samples`: (images, steps, noise) -> images."""

    def step(images, noise):
        images = tf.clip_by_value(images + tf.random.normal(tf.shape(images), stddev=noise), -1.0, 1.0)
        with tf.GradientTape() as tape:
            tape.watch(images)
            score = model(images)
        gradient = tape.gradient(score, images)
        gradient = tf.clip_by_value(gradient, -settings.gradient_clip, settings.gradient_clip)
        return tf.clip_by_value(images + settings.step_size * gradient, -1.0, 1.0)

    def loop(images, steps, noise):
        for _ in range(steps):
            images = step(images, noise)
        return images

    def graph_loop(images, steps, noise):
        return tf.while_loop(lambda i, x: i < steps, lambda i, x: (i + 1, step(x, noise)), (0, images))[1]

    return loop if mode == "eager" else tf.function(graph_loop, jit_compile=mode == "xla")


def _make_update(variables: dict[str, Any], settings: TrainSettings, pictures: np.ndarray, mode: str) -> Any:
    """The notebook's training step with its buffer, a Python list of single images, newest first."""
    model = score_network(variables, settings.height, settings.width)
    optimizer = keras.optimizers.Adam(learning_rate=settings.learning_rate)
    optimizer.build(model.trainable_variables)
    chain = _make_chain(model, settings, mode)
    batch, shape = settings.batch_size, (settings.height, settings.width, 1)
    steps = settings.langevin_steps if mode == "eager" else tf.constant(settings.langevin_steps)
    noise = tf.constant(settings.noise)
    buffer = [tf.random.uniform((1, *shape), -1.0, 1.0) for _ in range(batch)]

    def learn(real, fake):
        real = tf.clip_by_value(real + tf.random.normal(tf.shape(real), stddev=settings.noise), -1.0, 1.0)
        with tf.GradientTape() as tape:
            real_score, fake_score = tf.split(model(tf.concat([real, fake], axis=0)), 2, axis=0)
            cdiv = tf.reduce_mean(fake_score) - tf.reduce_mean(real_score)
            loss = cdiv + settings.alpha * tf.reduce_mean(real_score**2 + fake_score**2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    if mode != "eager":
        learn = tf.function(learn, jit_compile=mode == "xla")

    def update() -> float:
        nonlocal buffer
        fresh = np.random.binomial(batch, settings.restart)  # noqa: NPY002 (the notebook's)
        drawn = random.choices(buffer, k=batch - fresh)
        starts = tf.concat([tf.random.uniform((fresh, *shape), -1.0, 1.0), *drawn], axis=0)
        fake = chain(starts, steps, noise)
        buffer = (tf.split(fake, batch, axis=0) + buffer)[: settings.buffer_size]
        real = pictures[np.random.randint(len(pictures), size=batch)]  # noqa: NPY002
        return float(learn(tf.constant(real[..., None] / np.float32(127.5) - 1.0), fake))

    return update
