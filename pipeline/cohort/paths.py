"""The names in a training run's folder, by which whoever evaluates it finds what it needs."""

RECIPE = "recipe.toml"
PREPARATION = "preparation.toml"
SPLIT = "split.csv"
LEFT_OUT = "left_out.csv"
BEST = "best.safetensors"
CACHE = "private/cache"
