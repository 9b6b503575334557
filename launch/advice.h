// What to say to a word that is none of those that may stand there.
#pragma once

#include <string>
#include <vector>

namespace tessera {

// "; use bf16, …", for what other programs mean by the word, or "; did you mean '…'?" for a likely typo, or
// "".
std::string advice_on(const std::string& word, const std::vector<std::string>& words);

}  // namespace tessera
