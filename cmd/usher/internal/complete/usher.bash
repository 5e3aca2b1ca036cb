# Completes command lines of usher in bash. To install it, write it to
# ~/.local/share/bash-completion/completions/usher, or put this line into ~/.bashrc:
#   source <(usher completion bash)
_usher() {
  local words line value word=$2 before
  # COMP_WORDS is of no use: bash splits words at = and :, and replaces the last part.
  IFS=$' \t\n' read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
  [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
  local whole=${words[${#words[@]} - 1]}
  before=${whole%"$word"}
  COMPREPLY=()
  while IFS= read -r line; do
    value=${line%%$'\t'*}
    if [[ $value == :files ]]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen -f -- "$word")
      return
    fi
    [[ $value == "$before"* ]] && COMPREPLY+=("${value#"$before"}")
  done < <("${1/#\~/$HOME}" complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _usher usher
