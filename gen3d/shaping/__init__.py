"""What every optimisation of a field has in common, whoever judges its pictures."""
