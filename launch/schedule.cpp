#include "launch/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera {

double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t steps, std::int64_t step) {
  if (step < schedule.warmup) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup);
  }
  const std::int64_t left = steps - schedule.warmup;
  const std::int64_t tenth = std::min(std::max<std::int64_t>(steps / 10, 1), left);
  const std::int64_t decay =
      schedule.name == ScheduleName::cosine ? left : schedule.decay_steps.value_or(tenth);
  if (schedule.name == ScheduleName::constant || decay <= 0) return peak;
  const double progress =
      std::clamp(static_cast<double>(step - (steps - decay)) / static_cast<double>(decay), 0.0, 1.0);
  const double share =
      schedule.name == ScheduleName::cosine ? (1 + std::cos(std::numbers::pi * progress)) / 2 : 1 - progress;
  return schedule.min_lr + (peak - schedule.min_lr) * share;
}

}  // namespace tessera
