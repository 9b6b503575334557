#include "launch/advice.h"

#include <algorithm>
#include <map>

#include "core/base/error.h"

namespace tessera {
namespace {

// Words that other programs use, and what is meant or to be used here.
const std::map<std::string, std::string>& words_of_others() {
  static const std::string half = "use bf16, which has the range of fp32 and needs no loss scaling";
  static const std::map<std::string, std::string> words{
      {"fp16", half},
      {"f16", half},
      {"float16", half},
      {"half", half},
      {"bfloat16", "it is called bf16"},
      {"float32", "it is called fp32"},
      {"f32", "it is called fp32"},
      {"gpu", "a GPU is cuda"},
      {"nvidia", "a GPU is cuda"},
  };
  return words;
}

}  // namespace

std::string advice_on(const std::string& word, const std::vector<std::string>& words) {
  const auto other = words_of_others().find(word);
  const bool advises = other != words_of_others().end() &&
                       std::any_of(words.begin(), words.end(), [&](const std::string& known) {
                         return other->second.find(known) != std::string::npos;
                       });
  return advises ? "; " + other->second : did_you_mean(word, words);
}

}  // namespace tessera
