"""How the work is split over ranks: who does which part, in which groups, and what that sends."""
