// The dialect of tokenizer.json's patterns, Oniguruma's, said in PCRE2's.
//
// The two differ in what many constructs mean (\h, $, (?m:…), scripts, \s, …). Here a pattern is read as
// Oniguruma's default syntax reads it, and each construct is written so that PCRE2 finds the same matches;
// what cannot be is refused by name. Pure functions; any thread.
#pragma once

#include <string>

namespace tessera {

// PCRE2's pattern (for UTF, with Unicode properties) of an Oniguruma pattern in valid UTF-8. Groups capture
// nothing. Throws Error beginning with `origin` that names the construct and the character it stands at.
std::string pcre2_from_oniguruma(const std::string& pattern, const std::string& origin);

// PCRE2's pattern for these characters and nothing else.
std::string pcre2_literal(const std::string& text);

}  // namespace tessera
