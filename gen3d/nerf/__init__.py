"""NeRF (Mildenhall et al. 2020, 2003.08934; Mueller et al. 2022, 2201.05989): photographs to a scene."""
