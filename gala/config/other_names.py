"""What other libraries call a setting, for the hint of an error."""

OTHER_NAMES = {
    **dict.fromkeys(("out", "output", "logdir", "log_dir"), "run"),
    **dict.fromkeys(("total_timesteps", "total_steps", "num_steps_total"), "steps"),
    **dict.fromkeys(("envs", "num_envs", "n_envs"), "envs_per_learner"),
    **dict.fromkeys(("env_id", "gym_id", "game", "task"), "env.id"),
    **dict.fromkeys(("gpu", "gpus", "cuda"), "device"),
    **dict.fromkeys(("workers", "num_workers", "actors"), "learners"),
    "ent_coef": "a2c.entropy_coef",
    "vf_coef": "a2c.value_coef",
    "n_steps": "a2c.num_steps",
    "learning_rate": "optim.lr",
    "optimizer": "optim.name",
    "network": "model.encoder",
}
