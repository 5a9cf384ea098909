"""Treats one simulated patient with random doses and prints the bedside chart of every step."""

import gymnasium as gym

import sepsis_gym  # noqa: F401  registers the environments


def main(seed: int = 0) -> float:
    """Runs one episode of SepsisWM-v0 and returns its undiscounted return."""
    env = gym.make("SepsisWM-v0", render_mode="ansi")
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    print(f"observation {observation.shape}, actions {env.action_space.n}")
    total, over = 0.0, False
    while not over:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        over = terminated or truncated
        print(f"\naction {action}, reward {reward:+.3f}\n{env.render()}")
    print(f"\nreturn {total:+.2f}, alive at 90 days: {info['died_90d'] == 0}")
    return total


if __name__ == "__main__":
    main()
