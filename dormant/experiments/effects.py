"""The smallest effects that claims call an effect. They were chosen before any run of these experiments was judged."""

# Shares of all neurons. A score batch of 64 states puts a neuron near the threshold now on one side and now on the
# other; two points are about what that does to a network of 144 neurons (3 neurons), and five are clearly more (7).
SOME_NEURONS = 0.02
MANY_NEURONS = 0.05
# The paper's recycled networks keep between a tenth and a quarter of the plain one's dormant neurons (figures 9, 12).
HALF_AS_MANY = 0.5
# Quotients of returns. The paper's intervals over 5 seeds and 17 games reach about 12 % to either side of its means
# (figure 10), so a tenth is the least that it could have seen itself.
HIGHER_RETURN = 1.1
LOWER_RETURN = 0.9
# A quotient of ranks. The paper's two are 5 % apart, and their spreads reach 1.3 % to either side.
HIGHER_RANK = 1.02
