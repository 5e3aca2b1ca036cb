#compdef usher
# Completes command lines of usher in zsh. To install it, write it to a file _usher in a
# folder of $fpath, or put this line into ~/.zshrc, after compinit:
#   source <(usher completion zsh)
_usher() {
  local line value program=${words[1]/#\~/$HOME}
  local -a values
  while IFS= read -r line; do
    value=${line%%$'\t'*}
    if [[ $value == :files ]]; then
      # Of --flag=FILE, the name of the file is completed.
      [[ $PREFIX == --*=* ]] && compset -P '*='
      _files
      return
    fi
    value=${value//:/\\:}
    [[ $line == *$'\t'* ]] && value+=":${line#*$'\t'}"
    values+=("$value")
  done < <($program complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
  (( $#values )) && _describe -V usher values
}
if [[ ${funcstack[1]} == _usher ]]; then
  _usher "$@"
else
  compdef _usher usher
fi
