"""How a meta-batch is computed: differentiation, backends, faster layers, and what a model is made of."""
